# mypy: disable-error-code="arg-type,operator"
"""Facts about teachers by name: BERT and GPT folders in the Hugging Face layout, with tokenizers that have special tokens or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import WORDS
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    BertConfig,
    GPT2Config,
    OpenAIGPTConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from dipair_lib.models import CrossEncoder, Texts, WordTokenizer, load, load_tokenizer, save
from dipair_lib.models.backbone import trim
from dipair_lib.models.folders import DoesNotApply
from dipair_lib.models.tokens import read, separator, tokenize

FIELDS = ["query", "passage"]
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
KINDS = ["gpt2", "openai-gpt", "bert"]
SIZES = {"gpt2": GPT2Config, "openai-gpt": OpenAIGPTConfig}


def bpe(special: list[str]) -> Tokenizer:
    """Byte pairs learned from a few sentences; like GPT's, nothing is put around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS), "the red house sleeps .", "a slow green river"], trainer)
    return tokenizer


@pytest.fixture(params=KINDS)
def backbone(request: pytest.FixtureRequest, tiny_backbone: str, tmp_path: Path) -> str:
    """A folder with a random model of 2 layers of 32 and its tokenizer: GPT-2 knows its end of text, the first GPT only <unk>."""
    if request.param == "bert":
        return tiny_backbone
    names = {"eos_token": "<|endoftext|>"} if request.param == "gpt2" else {"unk_token": "<unk>"}
    words = bpe(list(names.values()))
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config: PretrainedConfig = SIZES[request.param](
        vocab_size=words.get_vocab_size(), n_embd=32, n_layer=2, n_head=2, n_positions=64
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture
def texts(backbone: str, pairs: pd.DataFrame) -> Texts:
    return read(load_tokenizer(backbone), pairs[:12], FIELDS, [10, 14])


@torch.no_grad()
def logits(model: CrossEncoder, texts: Texts, rows: np.ndarray) -> torch.Tensor:
    return model(*model.batch(texts, rows))


def test_a_pair_alone_scores_as_in_a_padded_batch(backbone: str, texts: Texts) -> None:
    model = CrossEncoder(backbone, (10, 14)).eval()
    assert len(set(model.pair_lengths(texts))) > 1, "some rows are padded"
    alone = torch.cat([logits(model, texts, np.array([i])) for i in range(len(texts))])
    torch.testing.assert_close(logits(model, texts, np.arange(len(texts))), alone, **CLOSE)
    assert alone.std() > 0


def test_both_texts_are_read(backbone: str, pairs: pd.DataFrame) -> None:
    model, tokenizer = CrossEncoder(backbone, (10, 14)).eval(), load_tokenizer(backbone)
    for field in FIELDS:
        other = pairs[:4].assign(**{field: "old stone"})
        change = logits(model, read(tokenizer, other, FIELDS, [10, 14]), np.arange(4)) - logits(
            model, read(tokenizer, pairs[:4], FIELDS, [10, 14]), np.arange(4)
        )
        assert (change.abs() > 1e-6).all(), field


def test_one_step_of_fine_tuning_reaches_the_first_layer_and_is_repeatable(
    backbone: str, texts: Texts
) -> None:
    model = CrossEncoder(backbone, (10, 14)).train()
    batch = model.batch(texts, np.arange(len(texts)))
    torch.testing.assert_close(model(*batch), model(*batch), rtol=0, atol=0)  # no dropout
    model(*batch).square().mean().backward()
    stack = model.encoder.h if hasattr(model.encoder, "h") else model.encoder.encoder.layer
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stack[0].parameters())
    assert max(float(p.grad.abs().max()) for p in stack[0].parameters()) > 0
    assert float(model.encoder.get_input_embeddings().weight.grad.abs().max()) > 0


def test_saved_and_read_back_it_scores_the_same(backbone: str, texts: Texts, tmp_path: Path) -> None:
    model = CrossEncoder(backbone, (10, 14), layers=1).eval()
    back = load(save(model, tmp_path / "saved"))
    rows = np.arange(len(texts))
    torch.testing.assert_close(logits(back, texts, rows), logits(model, texts, rows), rtol=0, atol=0)


def test_first_layers_are_kept(backbone: str) -> None:
    whole, one = CrossEncoder(backbone, (10, 14)), CrossEncoder(backbone, (10, 14), layers=1)
    assert sum(p.numel() for p in one.parameters()) < sum(p.numel() for p in whole.parameters())
    with pytest.raises(DoesNotApply, match="layers: expected at most the backbone's 2, but got 3"):
        CrossEncoder(backbone, layers=3)


class TestTokensWithoutClsAndSep:
    """A pair is <sep> a <sep> b <sep>: one token begins, parts and ends."""

    @pytest.mark.parametrize("special", [{"eos_token": "<|endoftext|>"}, {"unk_token": "<unk>"}])
    def test_layout_and_length(self, special: dict[str, str]) -> None:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe(list(special.values())), **special)
        mark = separator(tokenizer)
        plain = tokenizer(["red car", "the old house sleeps ."])["input_ids"]
        found = tokenize(tokenizer, ["red car", "the old house sleeps ."], 5)
        assert found.ids.tolist() == [mark, *plain[0][:3], mark, mark, *plain[1][:3], mark]
        assert found.lengths.max() == 5
        assert mark == (tokenizer.eos_token_id if "eos_token" in special else tokenizer(".")["input_ids"][0])

    def test_a_joined_pair_holds_three_separators(self) -> None:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=bpe(["<|endoftext|>"]), eos_token="<|endoftext|>"
        )
        texts = read(tokenizer, pd.DataFrame({"query": ["red"], "passage": ["old house"]}), FIELDS, [10, 10])
        with torch.device("meta"):
            model = CrossEncoder(backbone_config=BertConfig(num_hidden_layers=1).to_dict())
        ids, mask, types = model.batch(texts, np.array([0]))
        mark, a, b = 0, tokenizer("red")["input_ids"], tokenizer("old house")["input_ids"]
        assert ids.tolist() == [[mark, *a, mark, *b, mark]] and mask.all()
        assert types.tolist() == [[0] * (len(a) + 2) + [1] * (len(b) + 1)]

    def test_nothing_stands_around_a_bilstms_words(self) -> None:
        found = tokenize(WordTokenizer(["red", "car"]), ["red car", "car"], 5)
        assert found.ids.tolist() == [2, 3, 3]

    def test_nothing_to_part_texts_with_is_an_error(self) -> None:
        words = Tokenizer(models.WordLevel({"<unk>": 0, "red": 1}, unk_token="<unk>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
        with pytest.raises(ValueError, match="expected a separator"):
            tokenize(tokenizer, ["red"], 8)


def test_a_model_with_its_layers_elsewhere_is_named() -> None:
    with pytest.raises(DoesNotApply, match="layers: 1 of a Linear: its layers cannot be cut off"):
        trim(torch.nn.Linear(2, 2), 1)
