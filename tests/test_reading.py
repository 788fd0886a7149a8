"""Facts about what a model reads of a task's texts: word pieces that its tokenizer does not know are counted, lengths fit its positions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_brought import byte_pairs, checkpoint
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from dipair_lib import inference, models, training
from dipair_lib.models import BackboneError, CrossEncoder, DualEncoder
from dipair_lib.models.folders import DoesNotApply
from dipair_lib.models.tokens import is_bare, separator, tokenize, unknown_in
from dipair_lib.training.rows import fitted


def task_of(train: dict[str, list[str]], **other: dict[str, list[str]]) -> Any:
    frames = {
        split: pd.DataFrame(other.get(split, train)).assign(label=0, group=0)
        for split in ("train", "dev", "test")
    }
    return SimpleNamespace(name="mine", fields=tuple(train), classes=("0", "1"), notes={}, **frames)


class TestUnknownWordPieces:
    def test_counted_by_hand(self, tiny_backbone: str) -> None:
        """Special tokens count as neither."""
        tokenizer = models.load_tokenizer(tiny_backbone)
        tokens = tokenize(tokenizer, ["red zzz house", "yyy"], 9)
        assert unknown_in(tokenizer, tokens) == (2, 4)
        assert unknown_in(models.WordTokenizer(["red"]), tokens) == (0, 0)

    def test_of_fields_without_special_tokens(self, tiny_backbone: str, tmp_path: Path) -> None:
        model = models.bring(str(checkpoint("bert", 1, tmp_path / "ce", tiny_backbone)), 2)
        read = model.tokenizer
        assert unknown_in(read, tokenize(read, ["red zzz house", "yyy"], 99)) == (2, 4)

    @pytest.mark.parametrize("end", ["<end>", "<unk>"])
    def test_gpts_separator_is_no_unknown_piece(self, end: str) -> None:
        """GPT-2 names one token as both."""
        words = Tokenizer(WordLevel({"<unk>": 0, "red": 1, "<end>": 2}, unk_token="<unk>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token=end)
        tokens = tokenize(tokenizer, ["red", "blue"], 9)
        assert is_bare(tokenizer) and tokens.ids[0] == separator(tokenizer) == (2 if end == "<end>" else 0)
        assert unknown_in(tokenizer, tokens) == (1, 2)
        assert unknown_in(byte_pairs(), tokenize(byte_pairs(), ["red"], 9))[0] == 0

    def test_said_by_field_and_refused_from_a_fifth_on(self, tiny_backbone: str) -> None:
        known = {"query": ["red house"], "passage": ["the old car runs fast"]}
        task = task_of(known)
        training.read_splits(task, tiny_backbone, (9, 9))
        assert task.notes == {}
        task = task_of(known, test={"query": ["red house"], "passage": ["the old car runs zzz"]})
        with pytest.warns(UserWarning, match=r"query 0\.00%, passage 6\.67%"):  # one of 15
            training.read_splits(task, tiny_backbone, (9, 9))
        assert task.notes == {"word_pieces_unknown_to_the_tokenizer": "query 0.00%, passage 6.67%"}
        strange = {"query": ["red house"], "passage": ["รถ เก่า วิ่ง red"]}
        message = r"mine: 75% of the word pieces of passage are unknown.*'รถ เก่า.*such as -p backbone=intfloat/multilingual"
        with pytest.raises(BackboneError, match=message):
            training.read_splits(task_of(strange), tiny_backbone, (9, 9))


class TestPositions:
    def test_the_longest_fields_give_way(self) -> None:
        """Joined, n fields are n - 1 word pieces shorter than their sum."""
        assert fitted([30, 30], 64) == [30, 30]
        assert fitted([10, 100], 64) == [10, 55]
        assert fitted([50, 60], 64) == [32, 33]
        assert fitted([128] * 5, 64) == [13, 13, 14, 14, 14]

    def test_five_long_fields_fit_before_anything_starts(self, tiny_backbone: str) -> None:
        names = [f"text{i}" for i in range(5)]
        task = task_of({name: ["red house " * 50] for name in names})
        with pytest.warns(UserWarning, match="mine: reads 13"):
            lengths = training.choose_read_lengths(task, tiny_backbone)
        assert sum(lengths) - 4 == 64
        said = "13+13+14+14+14 word pieces in place of 102+102+102+102+102"
        assert task.notes["read_lengths"] == f"{said}: {tiny_backbone} has 64 positions"
        model = CrossEncoder(tiny_backbone, lengths).eval()
        data = training.read_splits(task, tiny_backbone, lengths)["train"]
        assert inference.predict(model, data.texts, device="cpu").shape == (1, 1)
        assert np.array_equal(model.pair_lengths(data.texts), [64])

    def test_lengths_that_were_asked_for_are_refused_by_name(self, tiny_backbone: str) -> None:
        assert CrossEncoder(tiny_backbone, (33, 32)).read_lengths == [33, 32]
        with pytest.raises(
            DoesNotApply, match=r"read_lengths: expected at most 64 word pieces together.*got 65"
        ):
            CrossEncoder(tiny_backbone, (33, 33))
        assert DualEncoder(tiny_backbone, (64, 64), keep=(1,), projection=8).read_lengths == [64, 64]
        with pytest.raises(DoesNotApply, match=r"read_lengths: expected at most 64 word pieces, .*got 65"):
            DualEncoder(tiny_backbone, (8, 65), keep=(1,), projection=8)
