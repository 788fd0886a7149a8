# mypy: disable-error-code="arg-type,misc,operator,union-attr"
"""Facts about checkpoints that somebody else trained: the same ids and logits as the library that wrote them, labels by name, nothing
foreign loaded. The checkpoints are made here, of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import WORDS
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from dipair_lib import inference, models, training
from dipair_lib.models import BackboneError, SequenceClassifier, bring
from dipair_lib.models.sequence_classifier import longest_first
from dipair_lib.models.tokens import read

FIELDS = ["query", "passage"]
LENGTH = 20  # of a joined input: about half of the pairs below are cut
SMALL: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
}
CONFIGS: dict[str, Any] = {
    "bert": lambda n: BertConfig(**SMALL, vocab_size=n, max_position_embeddings=64),
    "electra": lambda n: ElectraConfig(**SMALL, vocab_size=n, embedding_size=16, max_position_embeddings=64),
    "distilbert": lambda n: DistilBertConfig(
        vocab_size=n, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
    ),
    "roberta": lambda n: RobertaConfig(
        **SMALL, vocab_size=n, type_vocab_size=1, max_position_embeddings=64, pad_token_id=1, bos_token_id=0, eos_token_id=2
    ),
    "gpt2": lambda n: GPT2Config(vocab_size=n, n_embd=32, n_layer=2, n_head=2, n_positions=64, pad_token_id=1),
}  # fmt: skip


def byte_pairs() -> PreTrainedTokenizerFast:
    """RoBERTa's way: byte pairs, two separators between the texts, no token types."""
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS), "the red house sleeps ."], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", unk_token="<unk>",
        pad_token="<pad>", mask_token="<mask>", model_max_length=LENGTH,
    )  # fmt: skip


def checkpoint(kind: str, outputs: int, folder: Path, tiny_backbone: str, **config: Any) -> Path:
    """A classifier of random weights with its tokenizer; its head's weights are large, so that no pair's logits are another's."""
    if kind in {"roberta", "gpt2"}:
        tokenizer: Any = byte_pairs()
    else:
        names = ["input_ids", "attention_mask"] + (["token_type_ids"] if kind != "distilbert" else [])
        tokenizer = AutoTokenizer.from_pretrained(
            tiny_backbone, model_max_length=LENGTH, model_input_names=names
        )
    torch.manual_seed(1)
    settings: PretrainedConfig = CONFIGS[kind](len(tokenizer))
    settings.num_labels = outputs
    for name, value in config.items():
        setattr(settings, name, value)
    model = AutoModelForSequenceClassification.from_config(settings)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=1.0 if "embed" in name or "norm" in name.lower() else 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def uneven() -> pd.DataFrame:
    """Pairs of which either text, or both, or none are too long: some cut to the half, some by one piece, some of equal length."""
    random = np.random.default_rng(3)

    def text(n: int) -> str:
        return " ".join(random.choice(WORDS, n))

    sizes = [
        (1, 2),
        (3, 30),
        (30, 3),
        (12, 12),
        (13, 12),
        (12, 13),
        (30, 25),
        (25, 30),
        (8, 9),
        (9, 9),
        (10, 8),
        (1, 16),
        (17, 1),
    ]
    sizes += [(int(a), int(b)) for a, b in random.integers(1, 25, (20, 2))]
    rows = [(text(a), text(b)) for a, b in sizes]
    return pd.DataFrame(rows, columns=FIELDS).assign(label=0, group=0)


@torch.no_grad()
def logits(model: SequenceClassifier, frame: pd.DataFrame, rows: np.ndarray | None = None) -> np.ndarray:
    texts = read(model.tokenizer, frame, FIELDS[: len(model.read_lengths)], model.read_lengths)
    return model(*model.batch(texts, np.arange(len(frame)) if rows is None else rows)).numpy()


def theirs(folder: Path, frame: pd.DataFrame) -> np.ndarray:
    """Raw logits [rows, labels] of the original library."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu")
    pairs = list(zip(*(frame[name] for name in FIELDS), strict=True))
    found = model.predict(pairs, batch_size=7, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    return np.asarray(found).reshape(len(frame), -1)


CASES = [("bert", 1), ("bert", 3), ("roberta", 1), ("roberta", 3), ("distilbert", 1), ("electra", 3)]


@pytest.mark.parametrize(("kind", "outputs"), CASES)
class TestTheOriginalsLogits:
    def test_as_transformers_saves_it(
        self, kind: str, outputs: int, tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
    ) -> None:
        folder = checkpoint(kind, outputs, tmp_path / "ce", tiny_backbone)
        classes = ["0", "1", "2"][:outputs] if outputs > 1 else ()
        found, expected = logits(bring(str(folder), 2, classes), uneven), theirs(folder, uneven)
        assert expected.std(0).min() > 0.1, "the pairs differ"
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)

    def test_as_sentence_transformers_saves_it(
        self, kind: str, outputs: int, tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
    ) -> None:
        from sentence_transformers import CrossEncoder

        folder = checkpoint(kind, outputs, tmp_path / "ce", tiny_backbone)
        CrossEncoder(str(folder), device="cpu", max_length=16).save_pretrained(str(tmp_path / "saved"))
        assert (tmp_path / "saved" / "modules.json").exists()
        found = logits(
            bring(str(tmp_path / "saved"), 2, ["0", "1", "2"][:outputs] if outputs > 1 else ()), uneven
        )
        expected = theirs(tmp_path / "saved", uneven)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        assert np.abs(expected - theirs(folder, uneven)).max() > 1e-3, "the shorter length was respected"

    def test_ids_and_token_types_are_those_of_the_tokenizer(
        self, kind: str, outputs: int, tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
    ) -> None:
        folder = checkpoint(kind, outputs, tmp_path / "ce", tiny_backbone)
        model = bring(str(folder), 2, ["0", "1", "2"][:outputs] if outputs > 1 else ())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = read(model.tokenizer, uneven, FIELDS, model.read_lengths)
        ids, mask, types = model.batch(texts, np.arange(len(uneven)))
        cut = 0
        for row, pair in enumerate(uneven[FIELDS].itertuples(index=False)):
            encoded = tokenizer(*pair, truncation="longest_first", return_token_type_ids=True)
            assert ids[row][mask[row]].tolist() == encoded["input_ids"], pair
            assert types[row][mask[row]].tolist() == encoded["token_type_ids"], pair
            cut += len(encoded["input_ids"]) == LENGTH
        assert 5 < cut < len(uneven)
        np.testing.assert_array_equal(mask.sum(1), model.pair_lengths(texts))
        assert model.settings["token_types"] == (kind in {"bert", "electra"})

    def test_saved_and_read_back_it_scores_the_same(
        self, kind: str, outputs: int, tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
    ) -> None:
        folder = checkpoint(kind, outputs, tmp_path / "ce", tiny_backbone)
        model = bring(str(folder), 2, ["2", "0", "1"][:outputs] if outputs > 1 else ())
        expected = logits(model, uneven)
        models.save(model, tmp_path / "saved")
        shutil.rmtree(folder)  # the row stands alone
        np.testing.assert_array_equal(logits(models.load(tmp_path / "saved"), uneven), expected)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_a_pair_alone_scores_as_in_a_padded_batch(
    kind: str, tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
) -> None:
    model = bring(str(checkpoint(kind, 1, tmp_path, tiny_backbone)), 2)
    alone = np.concatenate([logits(model, uneven, np.array([i])) for i in range(len(uneven))])
    np.testing.assert_allclose(logits(model, uneven), alone, atol=1e-5)
    texts = read(model.tokenizer, uneven, FIELDS, model.read_lengths)
    ids, mask, types = (
        torch.nn.functional.pad(t, (0, 5)) for t in model.batch(texts, np.arange(len(uneven)))
    )
    with torch.no_grad():  # padded with another id, as a GPU's batches are
        np.testing.assert_allclose(model(ids, mask, types).numpy(), alone, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "lasttoken", ("cls", "mean")])
def test_modules_with_pooling_and_dense_layers(
    pooling: Any, tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(2)
    transformer: Any = Transformer(tiny_backbone, max_seq_length=LENGTH)
    transformer.tokenizer.model_input_names = ["input_ids", "attention_mask", "token_type_ids"]
    pool = Pooling(32, pooling)
    first = Dense(pool.pooling_output_dimension, 16)  # with its tanh
    last = Dense(16, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    for layer in (first, last):
        torch.nn.init.normal_(layer.linear.weight, std=0.5)
    CrossEncoder(modules=[transformer, pool, first, last], device="cpu").save_pretrained(str(tmp_path))
    model = bring(str(tmp_path), 2)
    expected = theirs(tmp_path, uneven)
    np.testing.assert_allclose(logits(model, uneven), expected, atol=1e-4, rtol=0)
    models.save(model, tmp_path / "saved")
    np.testing.assert_allclose(logits(models.load(tmp_path / "saved"), uneven), expected, atol=1e-4)


def test_a_prompt_and_lower_case_are_respected(
    tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
) -> None:
    from sentence_transformers import CrossEncoder

    folder = checkpoint("roberta", 1, tmp_path / "ce", tiny_backbone)
    made = CrossEncoder(str(folder), device="cpu", prompts={"ask": "Slow river: "}, default_prompt_name="ask")
    made.save_pretrained(str(tmp_path / "saved"))
    path = tmp_path / "saved" / "sentence_bert_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_lower_case": True}))
    loud = uneven.assign(passage=uneven["passage"].str.upper())
    expected = theirs(tmp_path / "saved", loud)
    np.testing.assert_allclose(logits(bring(str(tmp_path / "saved"), 2), loud), expected, atol=1e-4)
    assert np.abs(expected - theirs(folder, loud)).max() > 1e-2


def test_texts_are_cut_on_the_tokenizers_side(
    tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
) -> None:
    folder = checkpoint("bert", 1, tmp_path, tiny_backbone)
    AutoTokenizer.from_pretrained(folder, truncation_side="left").save_pretrained(folder)
    expected = theirs(folder, uneven)
    np.testing.assert_allclose(logits(bring(str(folder), 2), uneven), expected, atol=1e-4)


def test_single_texts(tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame) -> None:
    folder = checkpoint("roberta", 3, tmp_path, tiny_backbone)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), bring(str(folder), 1, ["0", "1", "2"])
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for row, text in enumerate(uneven["query"][:8]):
        with torch.no_grad():
            expected = plain(**tokenizer(text, truncation=True, return_tensors="pt")).logits.numpy()
        np.testing.assert_allclose(logits(model, uneven, np.array([row])), expected, atol=1e-4)
    with pytest.raises(BackboneError, match="reads one or two texts, but the task has 3 fields"):
        bring(str(folder), 3, ["0", "1", "2"])


def test_longest_first_by_hand() -> None:
    lengths = np.array([[3, 4], [2, 30], [30, 2], [30, 25], [25, 30], [9, 9], [5, 20], [20, 4]])
    expected = [[3, 4], [2, 9], [9, 2], [6, 5], [5, 6], [5, 6], [5, 6], [7, 4]]
    assert longest_first(lengths, 11).tolist() == expected
    assert longest_first(np.array([[3], [30]]), 11).tolist() == [[3], [11]]


class TestLabels:
    """A checkpoint's outputs in the order of the task's classes, by name."""

    NLI: dict[str, Any] = {"id2label": {0: "Contradiction", 1: "ENTAILMENT", 2: "neutral"}}

    def test_three_classes_are_permuted_by_name(
        self, tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
    ) -> None:
        folder = checkpoint("bert", 3, tmp_path, tiny_backbone, **self.NLI)
        expected = theirs(folder, uneven)
        model = bring(str(folder), 2, ["contradiction", "entailment", "neutral"])
        np.testing.assert_allclose(logits(model, uneven), expected, atol=1e-4)
        model = bring(str(folder), 2, ["neutral", "contradiction", "entailment"])
        np.testing.assert_allclose(logits(model, uneven), expected[:, [2, 0, 1]], atol=1e-4)
        assert "ENTAILMENT is entailment" in model.notes

    def test_names_that_cannot_be_matched_are_asked_for(
        self, tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
    ) -> None:
        folder = str(checkpoint("bert", 3, tmp_path, tiny_backbone))
        classes = ["contradiction", "entailment", "neutral"]
        with pytest.raises(
            BackboneError, match=r"outputs are LABEL_0, LABEL_1, LABEL_2.*give teacher_labels"
        ):
            bring(folder, 2, classes)
        model = bring(folder, 2, classes, labels=["entailment", "neutral", "contradiction"])
        np.testing.assert_allclose(logits(model, uneven), theirs(folder, uneven)[:, [2, 0, 1]], atol=1e-4)
        for wrong in (["entailment", "neutral"], ["entailment", "entailment", "neutral"], ["a", "b", "c"]):
            with pytest.raises(BackboneError, match="cannot be told by name"):
                bring(folder, 2, classes, labels=wrong)

    def test_numbers_that_a_named_checkpoint_does_not_know_are_not_guessed(
        self, tmp_path: Path, tiny_backbone: str
    ) -> None:
        folder = str(checkpoint("bert", 3, tmp_path, tiny_backbone, **self.NLI))
        with pytest.raises(BackboneError, match="give teacher_labels"):
            bring(folder, 2, ["0", "1", "2"])

    def test_two_outputs_are_the_log_odds_of_the_second_class(
        self, tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
    ) -> None:
        folder = str(checkpoint("bert", 2, tmp_path, tiny_backbone, id2label={0: "yes", 1: "no"}))
        z = theirs(folder, uneven)
        found = logits(bring(folder, 2, ["no", "yes"]), uneven)
        np.testing.assert_allclose(found, z[:, :1] - z[:, 1:], atol=1e-4)
        np.testing.assert_allclose(
            logits(bring(folder, 2, ["0", "1"], labels=[0, 1]), uneven), z[:, 1:] - z[:, :1], atol=1e-4
        )

    def test_one_output_speaks_for_the_larger_number_or_the_class_that_is_named(
        self, tmp_path: Path, tiny_backbone: str, uneven: pd.DataFrame
    ) -> None:
        folder = str(checkpoint("bert", 1, tmp_path, tiny_backbone))
        z = theirs(folder, uneven)
        np.testing.assert_allclose(logits(bring(folder, 2, ["0", "1"]), uneven), z, atol=1e-4)
        with pytest.raises(BackboneError, match=r"teacher_labels = \[the class that its output speaks for\]"):
            bring(folder, 2, ["duplicate", "other"])
        model = bring(folder, 2, ["duplicate", "other"], labels=["duplicate"])
        np.testing.assert_allclose(logits(model, uneven), -z, atol=1e-4)

    def test_another_number_of_outputs_is_an_error(self, tmp_path: Path, tiny_backbone: str) -> None:
        folder = str(checkpoint("bert", 3, tmp_path, tiny_backbone))
        with pytest.raises(BackboneError, match="labels are scores: expected a checkpoint with one output"):
            bring(folder, 2)
        with pytest.raises(BackboneError, match="but the task has 2 classes, 0, 1"):
            bring(folder, 2, ["0", "1"])

    def test_raw_logits_of_a_score_are_said(self, tmp_path: Path, tiny_backbone: str) -> None:
        said = {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}
        folder = checkpoint("bert", 1, tmp_path, tiny_backbone, **said)
        assert "without its Sigmoid" in bring(str(folder), 2).notes
        assert "Sigmoid" not in bring(str(folder), 2, ["0", "1"]).notes


class TestWithinTheLibrary:
    """The same training, prediction and clocks as for a teacher trained here."""

    @pytest.fixture
    def model(self, tmp_path: Path, tiny_backbone: str) -> SequenceClassifier:
        return bring(str(checkpoint("bert", 1, tmp_path / "ce", tiny_backbone)), 2, ["0", "1"])

    def rows(self, model: SequenceClassifier, pairs: pd.DataFrame) -> training.Data:
        texts = read(model.tokenizer, pairs, FIELDS, model.read_lengths)
        return training.Data(texts, pairs["label"].to_numpy(), pairs["group"].to_numpy(), 2)

    def test_predict_in_both_dtypes(self, model: SequenceClassifier, pairs: pd.DataFrame) -> None:
        data = self.rows(model, pairs)
        exact = inference.predict(model, data.texts, dtype="float32", what="")
        np.testing.assert_allclose(exact, logits(model, pairs), atol=1e-5)
        short = inference.predict(model, data.texts, dtype="bfloat16", what="")
        assert np.corrcoef(exact[:, 0], short[:, 0])[0, 1] > 0.99
        # as a bfloat16 number each would have 8 bits
        assert (short.astype(np.float32).view(np.uint32) & 0xFFFF).any()

    def test_fine_tuning_learns(self, model: SequenceClassifier, pairs: pd.DataFrame) -> None:
        data = self.rows(model, pairs)

        def loss() -> float:
            found = torch.from_numpy(inference.predict(model, data.texts, what=""))
            return float(training.hard_loss(found, torch.tensor(data.labels), 2))

        before = loss()
        config = training.TrainConfig(
            loss="hard", learning_rate=1e-3, epochs=2, batch_size=16, dtype="float32"
        )
        training.fit(model, data, config)
        assert loss() < 0.5 * before

    def test_costs_and_name(self, model: SequenceClassifier, pairs: pd.DataFrame) -> None:
        found = model.costs(self.rows(model, pairs).texts)
        assert found["params_total"] == sum(p.numel() for p in model.parameters())
        assert found["flops_per_pair"] > 0 and found["flops_per_text"] is None
        assert model.describe() == {"model": "teacher ce", "family": "cross-encoder", "backbone": "ce"}

    def test_its_features_are_not_known(self, model: SequenceClassifier, pairs: pd.DataFrame) -> None:
        with pytest.raises(ValueError, match="match: the head of"):
            model.features(*model.batch(self.rows(model, pairs).texts, np.arange(2)))
