"""The three rules of Tang et al. 2019, worked by hand and against their stated probabilities."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from dipair_lib.data import augmentation, pair_tiles
from dipair_lib.data.augmentation import Rules
from dipair_lib.models.words import words_of

TAGS = {"the": "D", "a": "D", "cat": "N", "dog": "N", "owl": "N", "sees": "V", "and": "C"}


def by_table(words: list[str]) -> list[str]:
    return [TAGS.get(word, "X") for word in words]


def frame(*texts: Any, **more: Any) -> pd.DataFrame:
    """Rows of one or two text columns."""
    rows = [text if isinstance(text, tuple) else (text,) for text in texts]
    fields = ["left", "right"][: len(rows[0])]
    columns = dict(zip(fields, zip(*rows, strict=True), strict=True))
    return pd.DataFrame({**columns, "label": range(len(rows)), "group": range(len(rows)), **more})


class Uniform:
    """Stands for a generator whose uniform numbers are given; integers are always the least (or ``pick``)."""

    def __init__(self, *numbers: list[float], pick: int = 0) -> None:
        self.numbers, self.pick = list(numbers), pick

    def random(self, n: int) -> np.ndarray:
        found = np.array(self.numbers.pop(0))
        assert len(found) == n
        return found

    def integers(self, low: Any, high: Any, size: int | None = None) -> np.ndarray:
        low, high = np.broadcast_arrays(low, high)
        return np.broadcast_to(np.minimum(low + self.pick, high - 1), size or low.shape).copy()


def changed(source: augmentation.Source, rules: Rules, random: Any) -> list[str]:
    return augmentation.change(source, 0, np.arange(len(source.frame)), rules, random)


class TestByHand:
    source = augmentation.tag(frame("the cat sees a dog", "the cat and the owl"), ["left"], by_table)

    def test_masking_below_p_mask(self) -> None:
        random = Uniform([0.05, 0.5, 0.0999, 0.1, 0.9] + [0.5] * 5, [1.0, 1.0])
        assert changed(self.source, Rules(mask=0.1, pos=0), random) == [
            "[MASK] cat [MASK] a dog",
            "the cat and the owl",
        ]

    def test_replacement_between_p_mask_and_their_sum_by_another_of_the_tag(self) -> None:
        # Nouns: cat 2, dog 1, owl 1. Without cat's own two the first noun is dog; without dog's the first is cat.
        random = Uniform([0.5, 0.1, 0.5, 0.5, 0.1999, 0.5, 0.2, 0.5, 0.5, 0.5], [1.0, 1.0])
        assert changed(self.source, Rules(mask=0.1, pos=0.1), random) == [
            "the dog sees a cat",
            "the cat and the owl",
        ]

    def test_a_word_alone_in_its_tag_stays(self) -> None:
        random = Uniform([0.9, 0.9, 0.0, 0.9, 0.9] + [0.9] * 5, [1.0, 1.0])
        assert changed(self.source, Rules(mask=0, pos=0.1), random)[0] == "the cat sees a dog"

    def test_one_ngram_is_kept_below_p_ngram(self) -> None:
        # Least n is 1 + pick, first place 0 + pick: "dog sees"-like windows of 2 words from the second on.
        random = Uniform([0.9] * 10, [0.24, 0.25], pick=1)
        assert changed(self.source, Rules(0, 0, 0.25), random) == ["cat sees", "the cat and the owl"]

    def test_an_ngram_longer_than_the_text_keeps_the_text(self) -> None:
        source = augmentation.tag(frame("cat", "dog sees"), ["left"], by_table)
        random = Uniform([0.9] * 3, [0.0, 0.0], pick=4)
        assert changed(source, Rules(0, 0, 1.0), random) == ["cat", "dog sees"]

    def test_ngrams_are_cut_after_masking(self) -> None:
        random = Uniform([0.0, 0.9, 0.9, 0.9, 0.9] + [0.9] * 5, [0.0, 0.9])
        assert changed(self.source, Rules(0.1, 0, 0.5), random)[0] == "[MASK]"


class TestAsWritten:
    """All but the replaced words stays byte for byte: what stands between words, before the first and after the last."""

    texts: ClassVar[list[str]] = [
        "  The cat,\tsees (a dog).\n",
        "_the cat's_owl__and…",
        "北京the cat",
        "",
        " _ ",
        "[mask] a[MASK]b",
    ]

    def test_without_a_change_every_byte_is_there_and_no_row_is_new(self) -> None:
        source = augmentation.tag(frame(*self.texts), ["left"], by_table)
        assert changed(source, Rules(0, 0, 0), np.random.default_rng(0)) == self.texts
        assert len(augmentation.synthesize(source, Rules(0, 0, 0), 3)) == 0

    def test_words_are_replaced_and_masked_in_their_places(self) -> None:
        source = augmentation.tag(frame("The cat,  sees\ta dog.", "a_dog!"), ["left"], by_table)
        # The, cat, ",", sees, a, dog, "." and a, dog, "!": cat and both a are masked, dog becomes cat (once there, dog twice).
        random = Uniform([0.5, 0.0, 0.5, 0.5, 0.0, 0.15, 0.5, 0.0, 0.15, 0.5], [1.0, 1.0])
        assert changed(source, Rules(), random) == ["The [MASK],  sees\t[MASK] cat.", "[MASK]_cat!"]

    def test_an_ngram_is_a_piece_of_the_text(self) -> None:
        source = augmentation.tag(frame("(The cat,  sees_a dog.)"), ["left"], by_table)
        # 4 of 9 words (a bracket is one) from the fourth on.
        random = Uniform([0.9] * 9, [0.0], pick=3)
        assert changed(source, Rules(0, 0, 1), random) == [",  sees_a dog"]
        pieces = augmentation.synthesize(source, Rules(0, 0, 1), 40)["left"]
        assert len(pieces) > 10
        assert all(piece in "(The cat,  sees_a dog.)" for piece in pieces)

    def test_an_ngram_of_all_words_is_the_text_with_its_edges(self) -> None:
        source = augmentation.tag(frame(" a cat\n"), ["left"], by_table)
        assert changed(source, Rules(0, 0, 1), Uniform([0.9] * 2, [0.0], pick=1)) == [" a cat\n"]

    def test_rows_in_which_nothing_changed_are_dropped_however_they_are_punctuated(self) -> None:
        source = augmentation.tag(
            frame("It works."), ["left"], lambda words: list(words)
        )  # no word has another of its tag
        assert len(augmentation.synthesize(source, Rules(0, 1, 0), 5)) == 0
        made = augmentation.synthesize(source, Rules(0.3, 0, 0), 20)["left"].tolist()
        assert set(made) <= {
            "[MASK] works.",
            "It [MASK].",
            "It works[MASK]",
            "[MASK] [MASK].",
            "[MASK] works[MASK]",
            "It [MASK][MASK]",
        }
        assert len(made) == len(set(made)) > 3

    def test_masks_alone_are_dropped_whatever_stands_between_them(self) -> None:
        source = augmentation.tag(frame("_works.\nwell"), ["left"], by_table)
        made = augmentation.synthesize(source, Rules(0.9, 0, 0), 30)["left"].tolist()
        assert made
        assert "_[MASK][MASK]\n[MASK]" not in made

    def test_a_replacement_does_not_run_together_with_its_neighbours(self) -> None:
        tags = {"and": "C", "/": "C"}
        source = augmentation.tag(
            frame("cat/dog", "an owl and he"), ["left"], lambda words: [tags.get(w, w) for w in words]
        )
        assert changed(source, Rules(0, 1, 0), np.random.default_rng(0)) == ["cat and dog", "an owl / he"]


class TestProbabilities:
    n = 40_000
    text = "the cat sees a dog and the owl"

    def counts(self, rules: Rules) -> tuple[float, float, float]:
        """Shares of words masked and replaced among texts that kept their length, and of texts cut."""
        source = augmentation.tag(frame(*[self.text] * self.n), ["left"], by_table)
        old = self.text.split()
        new = [t.split() for t in changed(source, rules, np.random.default_rng(0))]
        whole = [words for words in new if len(words) == len(old)]
        pairs = [(a, b) for words in whole for a, b in zip(old, words, strict=True)]
        masked = np.mean([b == "[MASK]" for _, b in pairs])
        other = [
            a != b != "[MASK]" for a, b in pairs if a not in {"sees", "and"}
        ]  # these two are alone in their tag
        return float(masked), float(np.mean(other)), 1 - len(whole) / self.n

    def test_rates_are_the_stated_ones(self) -> None:
        masked, replaced, cut = self.counts(Rules())
        assert masked == pytest.approx(0.1, abs=0.005)
        assert replaced == pytest.approx(0.1, abs=0.005)
        assert cut == pytest.approx(0.25, abs=0.01)

    def test_replacements_follow_the_tags_frequencies(self) -> None:
        # Nouns 6 : 3 : 1. In place of owl stand cat and dog, 2 to 1; in place of cat dog and owl, 3 to 1.
        texts = ["cat"] * 6 + ["dog"] * 3 + ["owl"]
        source = augmentation.tag(frame(*texts), ["left"], by_table)
        seen = {"owl": [], "cat": []}  # type: ignore[var-annotated]
        random = np.random.default_rng(1)
        for _ in range(3000):
            new = changed(source, Rules(0, 1, 0), random)
            seen["owl"].append(new[9])
            seen["cat"].append(new[0])
        assert pd.Series(seen["owl"]).value_counts(normalize=True).to_dict() == pytest.approx(
            {"cat": 2 / 3, "dog": 1 / 3}, abs=0.03
        )
        assert pd.Series(seen["cat"]).value_counts(normalize=True).to_dict() == pytest.approx(
            {"dog": 3 / 4, "owl": 1 / 4}, abs=0.03
        )

    def test_ngrams_are_one_to_five_words_equally_often(self) -> None:
        source = augmentation.tag(frame(*["a b c d e f g h"] * 20_000), ["left"], by_table)
        sizes = pd.Series([len(t.split()) for t in changed(source, Rules(0, 0, 1), np.random.default_rng(0))])
        assert sizes.value_counts(normalize=True).to_dict() == pytest.approx(
            dict.fromkeys(range(1, 6), 0.2), abs=0.02
        )


class TestRows:
    def pairs(self) -> augmentation.Source:
        texts = [(f"the cat sees a dog {i}", f"a dog and the owl {i}") for i in range(30)]
        return augmentation.tag(frame(*texts), ["left", "right"], by_table)

    def test_fields_cycle_first_second_both(self) -> None:
        source = self.pairs()
        random = np.random.default_rng(0)
        for number in range(3):
            made = augmentation.one_round(source, Rules(0.9, 0.1, 0), random, number)
            left = (made["left"] != source.frame["left"]).to_numpy()
            right = (made["right"] != source.frame["right"]).to_numpy()
            turn = (np.arange(30) + number) % 3
            assert left.tolist() == (turn != 1).tolist()
            assert right.tolist() == (turn != 0).tolist()

    def test_same_seed_same_rows_and_more_rounds_repeat_the_earlier_ones(self) -> None:
        source = self.pairs()
        two, five = (augmentation.synthesize(source, Rules(), n, seed=7) for n in (2, 5))
        pd.testing.assert_frame_equal(two, five[five["round"] < 2].reset_index(drop=True))
        assert not augmentation.synthesize(source, Rules(), 2, seed=8).equals(two)

    def test_no_row_twice_and_none_of_the_originals(self) -> None:
        source = augmentation.tag(frame("the cat", "a dog", "the cat"), ["left"], by_table)
        made = augmentation.synthesize(source, Rules(), 40)
        texts = made["left"].tolist()
        assert len(set(texts)) == len(texts)
        assert not set(texts) & {"the cat", "a dog"}
        assert len(texts) > 3

    def test_label_group_and_source_are_the_rows_own(self) -> None:
        made = augmentation.synthesize(self.pairs(), Rules(), 3)
        assert (made["label"] == made["source"]).all()
        assert (made["group"] == made["source"]).all()

    def test_rows_of_nothing_but_masks_are_dropped(self) -> None:
        source = augmentation.tag(frame("cat", "the dog"), ["left"], by_table)
        made = augmentation.synthesize(source, Rules(0.9, 0.1, 0.5), 30)
        assert len(made)
        assert not made["left"].str.fullmatch(r"(\[MASK\] ?)+").any()

    def test_one_word_texts_and_texts_without_words(self) -> None:
        source = augmentation.tag(frame("cat", "_", "dog"), ["left"], by_table)
        made = augmentation.one_round(source, Rules(0, 1, 1), np.random.default_rng(0), 0)
        assert made["left"].tolist() == ["dog", "_", "cat"]

    def test_no_rounds_no_rows(self) -> None:
        made = augmentation.synthesize(self.pairs(), Rules(), 0)
        assert len(made) == 0
        assert {"left", "right", "label", "group", "source", "round"} <= set(made.columns)


class TestTaggers:
    def test_pattern_gives_one_tag_per_word_whatever_the_words(self) -> None:
        texts = [
            "The cat sees a dog .",
            "1/2 of it's A/B — [MASK] ( x ) \\ / ??",
            "naïve 北京 www.x.org don't",
            "a/b/c",
        ]
        source = augmentation.tag(frame(*texts), ["left"])
        assert len(source.kinds[0]) == sum(len(words_of(t)) for t in texts)

    def test_pattern_tells_nouns_from_determiners(self) -> None:
        source = augmentation.tag(frame(*["the cat sees a dog"] * 3), ["left"])
        made = augmentation.synthesize(source, Rules(0, 1, 0), 3)
        assert made["left"].tolist() == ["a dog sees the cat"]

    def test_an_unknown_tagger_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected 'pattern' or the name of an installed spaCy model"):
            augmentation.tag(frame("a cat"), ["left"], "no_such_model")

    def test_a_tagger_that_loses_words_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected one tag per word, but got 1 for 2"):
            augmentation.tag(frame("a cat"), ["left"], lambda words: words[:1])


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"mask": -0.1}, r"mask: expected a probability in \[0, 1\]"),
        ({"ngram": 1.5}, r"ngram: expected a probability in \[0, 1\]"),
        ({"mask": 0.6, "pos": 0.5}, "mask \\+ pos: expected at most 1"),
        ({"pos": float("nan")}, r"pos: expected a probability in \[0, 1\]"),
        ({"longest": 0}, "longest: expected at least 1 word"),
    ],
)
def test_rules_that_cannot_be_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rules(**rules)


def test_unknown_names_and_counts_are_refused() -> None:
    with pytest.raises(
        ValueError, match="augment: expected one of none, mask, pos, ngram, all, but got 'swap'"
    ):
        augmentation.rules_of("swap")
    with pytest.raises(ValueError, match="n_iter: expected 0 or more rounds, but got -1"):
        augmentation.synthesize(TestByHand.source, Rules(), -1)


class TestTiles:
    left: ClassVar[list[str]] = [f"a{i}" for i in range(8)]
    right: ClassVar[list[str]] = [f"b{i}" for i in range(40)]

    def vectors(self) -> list[np.ndarray]:
        """Unit vectors around the circle: text i of either side points where i of its side stands."""
        angles = [np.arange(8) * 2 * np.pi / 8, np.arange(40) * 2 * np.pi / 40]
        return [np.stack([np.cos(a), np.sin(a)], axis=1).astype(np.float32) for a in angles]

    def test_every_left_meets_every_right_of_its_tile(self) -> None:
        for kind in ("near", "random"):
            made = pair_tiles.tiles([self.left, self.right], self.vectors(), ["q", "p"], 200, kind)
            assert made["group"].nunique() == 3  # whole tiles of 4 x 16
            for _, tile in made.groupby("group"):
                assert len(tile) == tile["q"].nunique() * tile["p"].nunique() == 64
                assert len(tile.drop_duplicates(["q", "p"])) == 64

    def test_near_tiles_hold_near_texts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pair_tiles, "NEAR", 6)
        vectors = self.vectors()
        made = pair_tiles.tiles([self.left, self.right], vectors, ["q", "p"], 64 * 4)
        for _, tile in made.groupby("group"):
            lefts = vectors[0][[int(q[1:]) for q in tile["q"].unique()]]
            assert (lefts @ lefts.T).min() > np.cos(2 * np.pi * 4 / 8) - 1e-6
            rights = vectors[1][[int(p[1:]) for p in tile["p"].unique()]]
            # Each right text is one of the six nearest of some left one: at most three steps of 1/40 away.
            assert ((rights @ lefts.T).max(axis=1) >= np.cos(2 * np.pi * 3 / 40) - 1e-6).all()

    def test_the_same_seed_gives_the_same_tiles(self) -> None:
        made = [
            pair_tiles.tiles([self.left, self.right], self.vectors(), ["q", "p"], 128, seed=seed)
            for seed in (0, 0, 1)
        ]
        pd.testing.assert_frame_equal(made[0], made[1])
        assert not made[0].equals(made[2])

    def test_few_texts_make_small_tiles(self) -> None:
        made = pair_tiles.tiles(
            [self.left[:2], self.right[:3]], [v[:3] for v in self.vectors()], ["q", "p"], 12
        )
        assert len(made) == 12
        assert made.groupby("group").size().eq(6).all()

    def test_what_cannot_be_tiled_is_refused(self) -> None:
        with pytest.raises(ValueError, match="tiles are of two fields, but the task has 3"):
            pair_tiles.tiles([[], [], []], [], ["a", "b", "c"], 10)
        with pytest.raises(ValueError, match="near or random, but got 10 and 'far'"):
            pair_tiles.tiles([self.left, self.right], self.vectors(), ["q", "p"], 10, "far")
