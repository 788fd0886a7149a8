"""Facts about backbones as people bring them: of each family a tiny one of random weights reads a text in a padded batch as alone, is cut,
saved and asked as a teacher; what cannot be read is refused by name, and no weight is random unsaid."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import WORDS
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from dipair_lib import models
from dipair_lib.models import BackboneError, CrossEncoder, DualEncoder, bring
from dipair_lib.models.backbone import positions_of, positions_of_backbone
from dipair_lib.models.folders import DoesNotApply
from dipair_lib.models.tokens import Texts, read
from dipair_lib.runner import suite_file
from dipair_lib.training.graphs import GraphedBackward
from dipair_lib.training.step import outputs_in

FIELDS = ["query", "passage"]
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
ROBERTA = SMALL | {
    "max_position_embeddings": 66,
    "type_vocab_size": 1,
}  # whose positions begin behind its padding
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 64}
SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
BART = SEQ2SEQ | {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "modernbert": ("ModernBert", SMALL | {"global_attn_every_n_layers": 2, "local_attention": 4}),
    "roberta": ("Roberta", ROBERTA),
    "xlm-roberta": ("XLMRoberta", ROBERTA),
    "deberta-v3": ("DebertaV2", SMALL | RELATIVE | {"type_vocab_size": 0, "position_biased_input": False}),
    "albert": ("Albert", SMALL | {"embedding_size": 16}),
    "mpnet": ("MPNet", SMALL | {"max_position_embeddings": 66}),
    "electra": ("Electra", SMALL | {"embedding_size": 16}),
    "longformer": ("Longformer", ROBERTA | {"attention_window": [8, 8, 8]}),
    "distilbert": (
        "DistilBert",
        {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    ),
    "gpt2": ("GPT2", GPT2),
    "qwen3": ("Qwen3", SMALL | {"num_key_value_heads": 1, "head_dim": 16}),
    "t5": ("T5", {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 3, "num_heads": 2}),
}
NORM = {"modernbert": "final_norm", "gpt2": "ln_f", "qwen3": "norm", "t5": "encoder.final_layer_norm"}
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


def config_of(family: str, kind: str = "", **settings: Any) -> Any:
    kind, own = (kind, {}) if kind else FAMILIES[family]
    # id 1 is padding, as RoBERTa has it: the batches of this project are padded with 0
    ids = {"vocab_size": len(WORDS) + 5, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    return getattr(transformers, f"{kind}Config")(**{**own, **ids, **settings})


def write(folder: Path, config: Any, tokenizer: str, auto: Any = AutoModel) -> Path:
    """A checkpoint of random weights with a tokenizer of whole words."""
    torch.manual_seed(0)
    model = auto.from_config(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "norm" not in name.lower():
            torch.nn.init.normal_(parameter, std=1.0 if "embed" in name or "wte" in name else 0.3)
    model.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(tokenizer, model_input_names=["input_ids", "attention_mask"])
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: str) -> Callable[[str], Path]:
    """The folder of a family's backbone, made when first asked for."""
    folder = tmp_path_factory.mktemp("families")

    def make(family: str) -> Path:
        return (
            folder / family
            if (folder / family).exists()
            else write(folder / family, config_of(family), tiny_backbone)
        )

    return make


def texts_of(folder: Path, pairs: pd.DataFrame, lengths: tuple[int, ...] = (10, 14)) -> Texts:
    return read(models.load_tokenizer(str(folder)), pairs[:6], FIELDS, lengths)


@pytest.mark.parametrize("family", FAMILIES)
class TestFamilies:
    def test_a_padded_batch_reads_each_text_as_alone(
        self, family: str, made: Callable[[str], Path], pairs: pd.DataFrame
    ) -> None:
        folder = made(family)
        model = CrossEncoder(str(folder), (10, 14), outputs=2).eval()
        texts, rows = texts_of(folder, pairs), np.arange(6)
        tokens = texts.tokens[1]
        ids, mask = tokens.take(np.arange(len(tokens)))
        assert not mask.all()
        with torch.no_grad():
            hidden = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            for row, length in enumerate(mask.sum(1).tolist()):
                one = model.encoder(
                    input_ids=ids[row : row + 1, :length], attention_mask=mask[row, :length][None]
                )
                torch.testing.assert_close(hidden[row, :length], one.last_hidden_state[0], **CLOSE)
            alone = torch.cat([model(*model.batch(texts, rows[i : i + 1])) for i in rows])
            torch.testing.assert_close(model(*model.batch(texts, rows)), alone, **CLOSE)
            if model.encoder._supports_sdpa:  # as on a GPU
                model.encoder.set_attn_implementation("sdpa")
                torch.testing.assert_close(model(*model.batch(texts, rows)), alone, **CLOSE)
                model.encoder.set_attn_implementation("eager")
        assert alone.std(0).min() > 1e-3, "the pairs differ"
        short = outputs_in(model, list(model.batch(texts, rows)), "bfloat16")
        short.square().mean().backward()
        torch.testing.assert_close(short.detach(), alone, atol=0.05, rtol=0.05)
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        assert model.encoder.get_input_embeddings().weight.grad.abs().max() > 0
        most = positions_of(model.encoder)
        assert most == positions_of_backbone(str(folder)) == (0 if family == "t5" else 64)
        assert model.notes == ""

    def test_first_layers_are_those_of_the_whole_and_are_read_back(
        self, family: str, made: Callable[[str], Path], pairs: pd.DataFrame, tmp_path: Path
    ) -> None:
        """Where a norm stands behind the last layer, it stands behind the last that is kept."""
        whole: Any = models.load_backbone(str(made(family)))
        cut = DualEncoder(str(made(family)), (10, 14), keep=(2,), projection=8, layers=2).eval()
        ids, mask = texts_of(made(family), pairs).tokens[1].take(np.arange(3))
        with torch.no_grad():
            layers = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            norm = whole.get_submodule(NORM[family]) if family in NORM else torch.nn.Identity()
            found = cut.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            torch.testing.assert_close(found[mask], norm(layers[2])[mask], **CLOSE)
            assert not torch.allclose(found[mask], norm(layers[3])[mask], atol=1e-2)
            back: Any = models.load(models.save(cut, tmp_path / "student"))
            torch.testing.assert_close(
                back.encode(ids, mask, 1).vectors, cut.encode(ids, mask, 1).vectors, **CLOSE
            )
        with pytest.raises(DoesNotApply, match="layers: expected at most the backbone's 3, but got 4"):
            models.load_backbone(str(made(family)), layers=4)


@pytest.mark.parametrize("family", [*(family for family in FAMILIES if family != "t5"), "bart"])
def test_a_teacher_with_its_own_head_gives_its_librarys_logits_and_is_read_back(
    family: str, pairs: pd.DataFrame, tiny_backbone: str, tmp_path: Path
) -> None:
    config = (
        config_of("", "Bart", **BART, num_labels=3) if family == "bart" else config_of(family, num_labels=3)
    )
    folder = write(tmp_path / "ce", config, tiny_backbone, AutoModelForSequenceClassification)
    model = bring(str(folder), 2, ["0", "1", "2"])
    texts = read(model.tokenizer, pairs[:6], FIELDS, model.read_lengths)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer, rows = AutoTokenizer.from_pretrained(folder), np.arange(6)
    with torch.no_grad():
        found = model(*model.batch(texts, rows))
        for row, (query, passage) in enumerate(zip(pairs["query"][:6], pairs["passage"][:6], strict=True)):
            one = theirs(**tokenizer(query, passage, return_tensors="pt")).logits[0]
            torch.testing.assert_close(found[row], one, atol=2e-5, rtol=1e-5)
        back: Any = models.load(models.save(model, tmp_path / "saved"))
        torch.testing.assert_close(back(*back.batch(texts, rows)), found, rtol=0, atol=0)


def test_a_step_that_cannot_be_recorded_is_made_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Longformer's, which reads values on its way: tried once."""
    weight, tried = torch.nn.Parameter(torch.ones(2)), []

    def record(self: Any, batch: Any) -> Any:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(GraphedBackward, "record", record)
    step = GraphedBackward(lambda x: (weight * x).sum(), [weight])
    with pytest.warns(UserWarning, match="its steps are not recorded as CUDA graphs"):
        losses = [float(step([torch.full((2,), float(n))])) for n in range(6)]
    assert losses == [0, 2, 4, 6, 8, 10] and tried == [1]
    assert weight.grad is not None and weight.grad.tolist() == [5, 5]


class TestRefused:
    @pytest.mark.parametrize(
        ("kind", "settings", "message"),
        [
            ("Bart", BART, "bart is an encoder with a decoder"),
            ("XLNet", {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}, "XLNetModel does not read texts as an encoder does"),
            ("ConvBert", SMALL | {"embedding_size": 16}, "ConvBertModel lets padding reach the texts"),
        ],
    )  # fmt: skip
    def test_what_does_not_read_texts_as_an_encoder(
        self, kind: str, settings: dict[str, Any], message: str, tiny_backbone: str, tmp_path: Path
    ) -> None:
        folder = write(tmp_path, config_of("", kind, **settings), tiny_backbone)
        with pytest.raises(BackboneError, match=f"{message}.*: take an encoder such as BERT"):
            models.load_backbone(str(folder))

    def test_layers_of_several_groups_cannot_be_cut(self, tiny_backbone: str, tmp_path: Path) -> None:
        config = config_of("albert", num_hidden_groups=3)
        with pytest.raises(DoesNotApply, match="layers: 2 of a AlbertModel: its layers cannot be cut off"):
            models.load_backbone(str(write(tmp_path, config, tiny_backbone)), layers=2)

    def test_attention_that_is_not_of_each_token_on_each(
        self, made: Callable[[str], Path], pairs: pd.DataFrame
    ) -> None:
        model = DualEncoder(str(made("longformer")), (10, 14), keep=(2,), projection=8, select="attention")
        ids, mask = texts_of(made("longformer"), pairs).tokens[1].take(np.arange(3))
        with pytest.raises(DoesNotApply, match="select: attention needs"):
            model.encode(ids, mask, 1)

    def test_a_folder_without_its_tokenizer(self, made: Callable[[str], Path], tmp_path: Path) -> None:
        for name in ("config.json", "model.safetensors"):
            shutil.copy(made("roberta") / name, tmp_path)
        with pytest.raises(BackboneError, match=r"save the original's beside the weights.*tokenizer\.json"):
            models.load_tokenizer(str(tmp_path))
        if not transformers.utils.is_sentencepiece_available():
            (tmp_path / "sentencepiece.bpe.model").write_bytes(b"\n\x05")
            with pytest.raises(BackboneError, match="pip install sentencepiece"):
                models.load_tokenizer(str(tmp_path))

    def test_tokens_that_were_added_to_the_tokenizer_alone(
        self, made: Callable[[str], Path], tmp_path: Path
    ) -> None:
        folder = shutil.copytree(made("gpt2"), tmp_path / "gpt2")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["<new>"])
        tokenizer.save_pretrained(folder)
        with pytest.raises(
            BackboneError, match=r"'<new>' ids for which the model's 30 embeddings.*resize_token"
        ):
            models.load_tokenizer(str(folder))

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
    def test_a_git_lfs_pointer(self, name: str, made: Callable[[str], Path], tmp_path: Path) -> None:
        folder = shutil.copytree(made("roberta"), tmp_path / "cloned")
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
        for load in (models.load_backbone, models.load_tokenizer):
            with pytest.raises(BackboneError, match=f"{name}: is a Git LFS pointer.*git lfs pull"):
                load(str(folder))

    def test_an_adapter(self, made: Callable[[str], Path], tmp_path: Path) -> None:
        folder = shutil.copytree(made("roberta"), tmp_path / "lora")
        (folder / "adapter_config.json").write_text("{}")
        for load in (models.load_backbone, lambda name: bring(name, 2)):
            with pytest.raises(BackboneError, match=r"holds an adapter.*merge_and_unload"):
                load(str(folder))


def test_suites_leave_out_layers_that_cannot_be_cut() -> None:
    folder = Path(__file__).parents[1] / "notebooks" / "suites"
    runs = [run for path in sorted(folder.glob("*.yaml")) for run in suite_file.read_suite(path).runs]
    cut = [run for run in runs if run.parameters.get("layers")]
    assert len(cut) >= 4
    assert all(run.left_out("DoesNotApply: layers: 2 of a AlbertModel") for run in cut)


class TestNamesOfWeights:
    @pytest.fixture
    def folder(self, made: Callable[[str], Path], tmp_path: Path) -> Path:
        return Path(shutil.copytree(made("roberta"), tmp_path / "renamed"))

    @staticmethod
    def rename(folder: Path, name: Callable[[str], str]) -> dict[str, torch.Tensor]:
        """The weights as they were; on disk they carry other names."""
        weights = load_file(folder / "model.safetensors")
        save_file({name(key): value for key, value in weights.items()}, folder / "model.safetensors")
        return weights

    @pytest.mark.parametrize(
        "prefix",
        ["_orig_mod.", "module.", "model.", "0.auto_model.", "module._orig_mod.model.", "roberta.", "encoder_q.model."],
    )  # fmt: skip
    def test_one_prefix_is_read_over(self, prefix: str, folder: Path) -> None:
        weights = self.rename(folder, lambda key: prefix + key)
        model = models.load_backbone(str(folder))
        for key, value in model.state_dict().items():
            assert torch.equal(value, weights[key]), key
        said = f"without the prefix '{prefix.replace('_orig_mod.', '') or '_orig_mod.'}'"
        assert prefix == "roberta." or said in str(model.notes)

    def test_a_compiled_part_within(self, folder: Path) -> None:
        weights = self.rename(folder, lambda key: key.replace("encoder.", "encoder._orig_mod."))
        state = models.load_backbone(str(folder)).state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in state.items())

    @pytest.mark.parametrize(
        ("name", "lacks"),
        [
            (
                lambda key: key if ".2." not in key else "other." + key,
                r"encoder\.layer\.2.*they would be random",
            ),
            (lambda key: "a.b" + key, r"embeddings\.LayerNorm\.bias.* and \d+ more of a RobertaModel"),
        ],
    )
    def test_weights_that_are_missing_are_named(
        self, name: Callable[[str], str], lacks: str, folder: Path
    ) -> None:
        self.rename(folder, name)
        with pytest.raises(BackboneError, match=f"its weights lack {lacks}"):
            models.load_backbone(str(folder))

    def test_two_encoders_in_one_file_are_not_guessed_between(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        both = {f"{side}.{key}": value.clone() for side in "qd" for key, value in weights.items()}
        save_file(both, folder / "model.safetensors")
        with pytest.raises(BackboneError, match="its weights lack"):
            models.load_backbone(str(folder))

    def test_a_teacher_behind_a_prefix_and_one_without_a_layer(
        self, tiny_backbone: str, tmp_path: Path
    ) -> None:
        config = config_of("roberta", num_labels=1)
        folder = write(tmp_path, config, tiny_backbone, AutoModelForSequenceClassification)
        expected = bring(str(folder), 2).state_dict()
        weights = self.rename(folder, lambda key: "module." + key)
        model = bring(str(folder), 2)
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
        assert "without the prefix 'module.'" in model.notes
        save_file({k: v for k, v in weights.items() if ".layer.1." not in k}, folder / "model.safetensors")
        with pytest.raises(BackboneError, match=r"lack roberta\.encoder\.layer\.1.*they would be random"):
            bring(str(folder), 2)

    def test_a_pooler_is_missed_where_a_head_reads_it(self, tiny_backbone: str, tmp_path: Path) -> None:
        config = config_of("", "Bert", **SMALL, num_labels=1)
        folder = write(tmp_path, config, tiny_backbone, AutoModelForSequenceClassification)
        weights = load_file(folder / "model.safetensors")
        save_file({k: v for k, v in weights.items() if "pooler" not in k}, folder / "model.safetensors")
        with pytest.raises(BackboneError, match=r"its weights lack bert\.pooler\.dense\.bias"):
            bring(str(folder), 2)
        assert str(models.load_backbone(str(folder)).notes) == ""

    def test_a_tokenizer_file_of_another_place_is_not_followed(self, folder: Path) -> None:
        """Where it lies beside the config it is taken from there, wherever it is said to be."""
        path = folder / "tokenizer_config.json"
        said = json.loads(path.read_text()) | {"tokenizer_file": "/somebody/elses/tokenizer.json"}
        path.write_text(json.dumps(said))
        assert models.load_tokenizer(str(folder))("red")["input_ids"] == [2, 12, 3]
        path.write_text(json.dumps(said | {"tokenizer_file": "/etc/passwd"}))
        with pytest.raises(BackboneError, match="never followed"):
            models.load_tokenizer(str(folder))
