"""Words and their vectors: what is read is what the file holds, and a broken file never gives a wrong vector."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from dipair_lib import models
from dipair_lib.models import words
from dipair_lib.models.words import (
    VectorsError,
    WordTokenizer,
    read_vectors,
    vocabulary_of,
    word_vectors,
    words_of,
)

VECTORS = {
    "cat": [1.0, -2.0, 0.5],
    "Dog": [0.25, 4.0, -1.0],
    "dog": [9.0, 9.0, 9.0],
    "Paris": [3.0, 1.0, 2.0],
}


def text_file(path: Path, header: str = "", vectors: dict[str, list[float]] | None = None) -> Path:
    lines = [f"{w} {' '.join(map(str, v))}\n" for w, v in (vectors or VECTORS).items()]
    path.write_text(header + "".join(lines), encoding="utf8")
    return path


def binary_file(path: Path) -> Path:
    """As word2vec writes it: a newline after each vector."""
    body = b"".join(w.encode() + b" " + np.array(v, "<f4").tobytes() + b"\n" for w, v in VECTORS.items())
    path.write_bytes(b"%d 3\n" % len(VECTORS) + body)
    return path


class TestWords:
    def test_cut(self) -> None:
        assert words_of("It doesn't work_here: [MASK], 3.5 naïve 北京!") == [
            "It", "doesn't", "work", "here", ":", "[MASK]", ",", "3", ".", "5", "naïve", "北", "京", "!",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "cut"),
        [
            ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
            ("বাংলা தமிழ்", ["বাংলা", "தமிழ்"]),
            ("كِتَابٌ جَدِيد", ["كِتَابٌ", "جَدِيد"]),
            ("می\u200cخواهم", ["می\u200cخواهم"]),
            ("ภาษา ไทย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"]),
            ("ที่", ["ที่"]),
            ("日本語のテスト", [*"日本語のテスト"]),
            ("cafe\u0301s don’t", ["cafe\u0301s", "don’t"]),
            ("ok 👩\u200d👩\u200d👧🇩🇪!", ["ok", "👩\u200d👩\u200d👧", "🇩🇪", "!"]),
            ("x² 5km", ["x²", "5km"]),
        ],
    )  # fmt: skip
    def test_words_of_other_scripts_keep_their_marks(self, text: str, cut: list[str]) -> None:
        """Scripts without spaces are read character by character, each with its marks."""
        assert words_of(text) == cut
        assert words.WORD.sub("", text).strip() == ""

    def test_accents_are_one_word_however_they_are_written(self) -> None:
        assert vocabulary_of(["Cafe\u0301 café", "CAFÉ"]) == ["café"]
        assert WordTokenizer(["café"])(["cafe\u0301"])["input_ids"] == [[2]]

    def test_vocabulary_is_by_frequency_and_without_the_mask(self) -> None:
        assert vocabulary_of(["b A a", "[MASK] a b c"]) == ["a", "b", "c"]
        assert vocabulary_of(["b A a", "c"], most=1) == ["a"]

    def test_ids(self) -> None:
        read = WordTokenizer(["the", "cat"])(["The cat [MASK] owl", "___", "the the the"], max_length=2)
        assert read["input_ids"] == [[2, 3], [1], [2, 2]]

    def test_unknown_words_only_are_all_one_vector(self) -> None:
        """Such a text scores as as many masked words do; the logits are finite."""
        torch.manual_seed(0)
        model = models.BiLSTM(["the", "cat"], (9,), width=6, hidden=5, fc=4).eval()
        read = model.tokenizer(["zzz yyy", "[MASK] [MASK]", "the cat"])["input_ids"]
        assert read[0] == read[1] == [1, 1]
        with torch.no_grad():
            # each alone: rows of one batch may be added up in another order, on some processors
            logits = [
                model.score(model.encode(ids, torch.ones_like(ids, dtype=torch.bool), 0))
                for ids in torch.tensor(read)[:, None]
            ]
        assert torch.isfinite(torch.cat(logits)).all()
        assert logits[0] == logits[1] != logits[2]


class TestFiles:
    @pytest.mark.parametrize("kind", ["glove", "word2vec", "gzip", "binary"])
    def test_every_format_gives_the_same_vectors(self, kind: str, tmp_path: Path) -> None:
        if kind == "binary":
            path = binary_file(tmp_path / "v.bin")
        else:
            path = text_file(tmp_path / "v.txt", "4 3\n" if kind == "word2vec" else "")
        if kind == "gzip":
            (tmp_path / "v.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
            path = tmp_path / "v.txt.gz"
        found = read_vectors(path, {"cat", "dog", "paris", "owl"})
        # dog as it is written wins over Dog; paris has only its cased spelling
        assert {w: v.tolist() for w, v in found.items()} == {
            "cat": VECTORS["cat"], "dog": VECTORS["dog"], "paris": VECTORS["Paris"],
        }  # fmt: skip

    def test_coverage_and_the_spread_of_those_not_found(self, tmp_path: Path) -> None:
        path = text_file(tmp_path / "v.txt")
        _, table, coverage = word_vectors(str(path), ["cat", "owl", "dog"], beyond=0)
        assert (coverage.words, coverage.found) == (3, 2)
        assert str(coverage) == "2 of 3 words (66.7%) have a vector"
        known = torch.tensor([VECTORS["cat"], VECTORS["dog"]])
        torch.testing.assert_close(table[[0, 2]], known * words.SPREAD / known.std())
        assert table[1].abs().sum() > 0

    def test_frequent_words_of_the_file_join_the_vocabulary(self, tmp_path: Path) -> None:
        """In the file's order, cased spellings as their lower case; those given stay first and alone count as found."""
        vectors: dict[str, list[float]] = {
            "owl": [1, 2, 3],
            "The": [4, 5, 6],
            "new york": [0, 0, 1],
            "cat": [7, 8, 9],
            "dog": [1, 0, 0],
        }
        path = text_file(tmp_path / "v.txt", vectors=vectors)
        vocabulary, table, coverage = word_vectors(str(path), ["cat", "zzz"], beyond=2)
        assert vocabulary == ["cat", "zzz", "owl", "the"]
        assert table.shape == (4, 3)
        assert (coverage.words, coverage.found) == (2, 1)
        known = torch.tensor([vectors["cat"], vectors["owl"], vectors["The"]]).float()
        torch.testing.assert_close(table[[0, 2, 3]], known * words.SPREAD / known.std())

    def test_a_word_with_a_space_is_read_from_the_end(self, tmp_path: Path) -> None:
        path = text_file(tmp_path / "v.txt", vectors={"cat": [1, 2, 3], "new york": [4, 5, 6]})
        assert read_vectors(path, {"cat", "new york"})["new york"].tolist() == [4, 5, 6]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("cat 1 2 3\ndog 1 2\n", "v.txt, line 2: expected a word and 3 numbers, but got 2"),
            ("cat 1 2 3\nowl 1 2 3 4\n", "v.txt, line 2: expected a word and 3 numbers, but got 4"),
            ("2 3\ncat 1 2\n", "v.txt, line 2: expected a word and 3 numbers, but got 2"),
            ("cat 1 two 3\n", "v.txt, line 1: expected numbers, but got b'two'"),
            ("cat 1 nan 3\n", "v.txt, line 1: a vector holds NaN or infinity"),
            ("owl 1 2 3\n", "none of the 2 words of the training texts is in it"),
            ("", "none of the 2 words"),
            ("cat\n", "line 1: expected a word and its numbers"),
        ],
    )
    def test_a_broken_text_file_is_refused_by_line(self, content: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "v.txt"
        path.write_text(content)
        with pytest.raises(VectorsError, match=message):
            read_vectors(path, {"cat", "dog"})

    def test_a_cut_off_binary_file_is_refused(self, tmp_path: Path) -> None:
        path = binary_file(tmp_path / "v.bin")
        whole = path.read_bytes()
        for end in range(len(b"4 3\n"), len(whole) - 2):
            path.write_bytes(whole[:end])
            with pytest.raises(VectorsError, match=r"v\.bin, entry \d of 4"):
                read_vectors(path, {"cat", "paris"})

    def test_what_is_no_binary_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(VectorsError, match="expected word2vec's binary header"):
            read_vectors(text_file(tmp_path / "v.bin"), {"cat"})
        with pytest.raises(VectorsError, match=r"none\.txt: no such file: `vectors` is"):
            word_vectors(str(tmp_path / "none.txt"), ["cat"])

    def test_a_cut_off_gzip_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "v.txt.gz"
        path.write_bytes(gzip.compress(text_file(tmp_path / "v.txt").read_bytes())[:-9])
        with pytest.raises(VectorsError, match=r"v\.txt\.gz: is cut off or not gzip"):
            read_vectors(path, {"paris"})


class TestBackbone:
    def test_a_word_is_the_mean_of_its_pieces(self, tiny_backbone: str) -> None:
        """Without reduction (as many dimensions as the backbone has) distances are those of the piece embeddings, scaled."""
        vocabulary = ["red", "green", "house", "tree", "zzz"]
        _, found, coverage = word_vectors("backbone", vocabulary, tiny_backbone, beyond=0)
        backbone: Any = models.load_backbone(tiny_backbone)
        table = backbone.get_input_embeddings().weight.detach()
        ids = models.load_tokenizer(tiny_backbone)(vocabulary, add_special_tokens=False)["input_ids"]
        plain = torch.stack([table[i].mean(0) for i in ids])
        assert found.shape == (5, words.WIDTH)
        assert coverage.found == 4  # zzz is unknown to the backbone too
        distances, expected = torch.cdist(found, found), torch.cdist(plain, plain)
        torch.testing.assert_close(
            distances / distances[0, 1], expected / expected[0, 1], atol=1e-4, rtol=1e-3
        )
        assert float(found.std()) == pytest.approx(words.SPREAD, rel=1e-4)

    def test_whole_words_of_the_backbone_join_the_vocabulary(self, tiny_backbone: str) -> None:
        vocabulary, table, coverage = word_vectors("backbone", ["house", "zzz"], tiny_backbone)
        assert vocabulary[:2] == ["house", "zzz"]
        assert {"red", "green"} <= set(vocabulary) and not any("[" in word for word in vocabulary)
        assert len(vocabulary) == len(set(vocabulary)) == len(table)
        assert coverage.words == 2
        assert word_vectors("random", ["house", "zzz"])[0] == ["house", "zzz"]

    @pytest.mark.parametrize(
        ("pieces", "expected"),
        [
            (["[UNK]", "red", "##red", "house", "Ġa", "Red", "##s", *(f"w{i}" for i in range(60))], ["red", "house"]),
            (["<unk>", "▁red", "red", "▁house", "▁Red", "s"], ["red", "house"]),
            (["<unk>", "Ġred", "red", "Ġhouse", "ĠRed", "s", "ĠcafÃ©"], ["red", "house", "café"]),
            (["<unk>", "red</w>", "red", "house</w>", "Red</w>"], ["red", "house"]),
        ],
    )  # fmt: skip
    def test_pieces_that_begin_a_word_are_words(
        self, pieces: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever a vocabulary marks: what goes on (WordPiece), what begins (SentencePiece, byte pairs), what ends (the first GPT)."""
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=pieces[0]))
        tokenizer.decoder = decoders.ByteLevel() if "Ġred" in pieces else decoders.Metaspace()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=pieces[0])
        monkeypatch.setattr(words, "load_tokenizer", lambda name: fast)
        found = words.whole_words("any", set())
        assert [word for word in found if not word.startswith("w")] == expected

    def test_random_depends_on_the_seed(self) -> None:
        one, two, again = (word_vectors("random", ["a", "b"], seed=s)[1] for s in (0, 1, 0))
        assert torch.equal(one, again)
        assert not torch.equal(one, two)

    def test_a_table_of_another_shape_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"table: expected shape \[1, 4\] \(words, width\), but got \[1, 3\]"
        ):
            models.BiLSTM(["a"], width=4, table=torch.zeros(1, 3))
