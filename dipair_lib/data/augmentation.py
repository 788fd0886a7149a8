"""Synthetic training rows by the three rules of Tang et al. 2019, section 4: masking, POS-guided replacement,
n-gram sampling.

    source = augmentation.tag(task.train, task.fields)              # once: words and their parts of speech
    rows = augmentation.synthesize(source, augmentation.RULES["all"], n_iter=20, seed=0)

Every rule draws for a whole round of rows at once; a round depends on the seed and its own number only, so
that more rounds repeat the earlier ones exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dipair_lib.models.words import MASK, WORD, words_of
from dipair_lib.system import progress


@dataclass(frozen=True)
class Rules:
    """How a text is changed; the defaults are the paper's.

    Attributes:
        mask: probability that a word becomes [MASK].
        pos: probability that a word becomes another one of its part of speech, drawn from that tag's word
            frequencies in the training split. One uniform number per word decides: below ``mask`` it is
            masked, from there to ``mask + pos`` replaced.
        ngram: probability that, after this, only one n-gram of the text is kept.
        longest: n is uniform in 1 to ``longest``; an n beyond the text keeps the text.

    Raises:
        ValueError: a probability outside [0, 1], or mask and pos adding to more than 1.
    """

    mask: float = 0.1
    pos: float = 0.1
    ngram: float = 0.25
    longest: int = 5

    def __post_init__(self) -> None:
        for name in ("mask", "pos", "ngram"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"augmentation: {name}: expected a probability in [0, 1], but got {getattr(self, name)}"
                )
        if self.mask + self.pos > 1:
            raise ValueError(
                f"augmentation: mask + pos: expected at most 1 (a word is masked or replaced, never both), "
                f"but got {self.mask} + {self.pos}"
            )
        if self.longest < 1:
            raise ValueError(f"augmentation: longest: expected at least 1 word, but got {self.longest}")


RULES = {
    "none": Rules(0, 0, 0),
    "mask": Rules(pos=0, ngram=0),
    "pos": Rules(mask=0, ngram=0),
    "ngram": Rules(mask=0, pos=0),
    "all": Rules(),
}


def rules_of(name: str) -> Rules:
    """Rules by their name: none, mask, pos, ngram, all."""
    if name not in RULES:
        raise ValueError(f"augment: expected one of {', '.join(RULES)}, but got {name!r}")
    return RULES[name]


@dataclass(frozen=True)
class Source:
    """The rows to make synthetic ones of, in pieces: words, and what stands before, between and after them.

    Attributes:
        frame: the rows: a text column per field, ``label``, ``group``.
        fields: the text columns.
        strings: object [distinct pieces], as written; [MASK], nothing and a space among them.
        mask, nothing, space: their ids.
        pieces: per field, int32 [2 * all words + texts] of its distinct texts: what stands before a text's
            first word, the word, what stands before the next, ..., what stands after the last.
        offsets: per field, int64 [texts + 1], in words.
        kinds: per field, int32 [all words]: which (tag, word) of ``bounds`` each word is.
        index: int64 [rows, fields]: which distinct text a row has.
        bounds: int64 [kinds + 1]: running totals of the frequencies of (tag, word), sorted by tag.
        tags: int64 [kinds, 2]: where the totals of the kind's tag begin and end.
        kind_words: int32 [kinds]: the word of each kind.
    """

    frame: pd.DataFrame
    fields: tuple[str, ...]
    strings: np.ndarray
    mask: int
    nothing: int
    space: int
    pieces: tuple[np.ndarray, ...]
    offsets: tuple[np.ndarray, ...]
    kinds: tuple[np.ndarray, ...]
    index: np.ndarray
    bounds: np.ndarray
    tags: np.ndarray
    kind_words: np.ndarray


NOTHING_BUT_MASKS = r"[\s_]*(?:\[MASK\][\s_]*)+"  # between words stand spaces and underscores only
Tagger = Callable[[list[str]], list[str]]


def tag(frame: pd.DataFrame, fields: Sequence[str], tagger: str | Tagger = "pattern") -> Source:
    """Cut the rows' texts into words and tag each with its part of speech; each distinct text once.

    Args:
        frame: one row per example with a text column per field, ``label`` and ``group``.
        tagger: ``pattern`` (textblob's PatternTagger, no download), the name of an installed spaCy model such
            as ``en_core_web_sm``, or a function from words to as many tags.
    """
    tag_of = tagger if callable(tagger) else load_tagger(tagger)
    codes: dict[str, int] = {}
    tag_codes: dict[str, int] = {}
    pieces, ids, offsets, pos, index = [], [], [], [], []
    for field in fields:
        places, distinct = pd.factorize(frame[field])
        cut = [words_of(str(text)) for text in distinct]
        tagged = [tag_of(words) if words else [] for words in progress.track(cut, f"tagging {field}")]
        offsets.append(np.cumsum([0, *map(len, cut)], dtype=np.int64))
        between = [WORD.split(str(text)) for text in distinct]
        whole = (p for gaps, words in zip(between, cut, strict=True) for p in interleaved(gaps, words))
        pieces.append(np.array([codes.setdefault(p, len(codes)) for p in whole], np.int32))
        ids.append(pieces[-1][word_places(np.diff(offsets[-1]))])
        pos.append(
            np.array([tag_codes.setdefault(t, len(tag_codes)) for tags in tagged for t in tags], np.int64)
        )
        index.append(places)
        if len(pos[-1]) != len(ids[-1]):
            raise ValueError(
                f"tagger: expected one tag per word, but got {len(pos[-1])} for {len(ids[-1])} words"
            )
    mask, nothing, space = (codes.setdefault(piece, len(codes)) for piece in (MASK, "", " "))
    counted = np.concatenate(
        [np.bincount(i, minlength=len(o) - 1) for i, o in zip(index, offsets, strict=True)]
    )
    of_words = [p * len(codes) + i for p, i in zip(pos, ids, strict=True)]
    lengths = np.concatenate([np.diff(o) for o in offsets])
    pairs, kinds = np.unique(np.concatenate(of_words), return_inverse=True)
    frequency = np.bincount(kinds, weights=np.repeat(counted, lengths), minlength=len(pairs)).astype(np.int64)
    frequency[pairs % len(codes) == mask] = 0  # never a replacement
    bounds = np.concatenate([[0], np.cumsum(frequency)])
    of_tag = pairs // len(codes)
    first, last = np.searchsorted(of_tag, of_tag, "left"), np.searchsorted(of_tag, of_tag, "right")
    return Source(
        frame.reset_index(drop=True),
        tuple(fields),
        np.array(list(codes), dtype=object),
        mask,
        nothing,
        space,
        tuple(pieces),
        tuple(offsets),
        tuple(np.split(kinds.astype(np.int32), np.cumsum([len(i) for i in ids])[:-1])),
        np.stack(index, axis=1).astype(np.int64),
        bounds,
        np.stack([bounds[first], bounds[last]], axis=1),
        (pairs % len(codes)).astype(np.int32),
    )


def interleaved(gaps: list[str], words: list[str]) -> list[str]:
    """A gap, a word, a gap, ..., a gap."""
    both = [""] * (len(gaps) + len(words))
    both[::2], both[1::2] = gaps, words
    return both


def word_places(lengths: np.ndarray) -> np.ndarray:
    """Where the words of texts of so many words stand among their pieces, int64 [all words]: every second
    piece of a text is one.
    """
    return 2 * np.arange(lengths.sum()) + np.repeat(np.arange(len(lengths)), lengths) + 1


def load_tagger(name: str) -> Tagger:
    """A function from words to their tags, by the name of a tagger."""
    if name == "pattern":
        from textblob.en.taggers import PatternTagger

        return functools.partial(pattern_tags, PatternTagger())
    try:
        import spacy

        model = spacy.load(name, disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise ValueError(
            f"tagger: expected 'pattern' or the name of an installed spaCy model, but got {name!r} ({error})"
        ) from None
    return lambda words: [token.tag_ for token in model(spacy.tokens.Doc(model.vocab, words=words))]


def pattern_tags(tagger: Any, words: list[str]) -> list[str]:
    """Tags of words by textblob's PatternTagger, which reads words apart by spaces; "/" is written otherwise
    there.
    """
    found = tagger.tag(" ".join(words), tokenize=False)
    if len(found) == len(words):
        return [tag for _, tag in found]
    return [tag for word in words for _, tag in tagger.tag(word, tokenize=False)[:1] or [(word, "NN")]]


def synthesize(source: Source, rules: Rules, n_iter: int, seed: int = 0) -> pd.DataFrame:
    """Synthetic rows: each row is changed ``n_iter`` times; rows in which nothing changed and duplicates of
    each other are dropped.

    Of several fields, a row changes one at a time in turn and then all of them (the paper's cycle of first,
    second, both); the turn starts at another field in each row, so that one round holds all. What is left
    unchanged stays as it was written, what stands between words too, so that the teacher reads text as people
    write it; a space is added only where a replacement would run together with a word beside it.

    Args:
        n_iter: rounds; the paper takes 20 for SST-2 and 10 for MNLI and QQP.
        seed: of all draws.

    Returns:
        One row per synthetic example: the fields, ``label`` and ``group`` of the row it was made of,
        ``source`` (its position) and ``round``. Rows of which nothing but [MASK] is left in some field are
        dropped.
    """
    if n_iter < 0:
        raise ValueError(f"n_iter: expected 0 or more rounds, but got {n_iter}")
    fields = list(source.fields)
    originals = pd.util.hash_pandas_object(source.frame[fields], index=False).to_numpy()
    seen = set(originals.tolist())
    rounds = []
    for number in progress.track(range(n_iter), "synthetic rows"):
        made = one_round(source, rules, np.random.default_rng([seed, number]), number)
        keys = pd.util.hash_pandas_object(made[fields], index=False).to_numpy().tolist()
        new = [key not in seen and not seen.add(key) for key in keys]  # type: ignore[func-returns-value]
        masked = made[fields].apply(lambda texts: texts.str.fullmatch(NOTHING_BUT_MASKS)).any(axis=1)
        rounds.append(made[np.array(new, bool) & ~masked.to_numpy(bool)].assign(round=number))
    columns = [*fields, "label", "group", "source", "round"]
    return pd.concat(rounds, ignore_index=True) if rounds else pd.DataFrame(columns=columns)


def one_round(source: Source, rules: Rules, random: np.random.Generator, number: int) -> pd.DataFrame:
    """Every row changed once."""
    rows = np.arange(len(source.frame))
    turns = len(source.fields) + (len(source.fields) > 1)
    turn = (rows + number) % turns
    made = {}
    for place, field in enumerate(source.fields):
        changed = np.flatnonzero((turn == place) | (turn == len(source.fields)))
        texts = source.frame[field].to_numpy(dtype=object).copy()
        texts[changed] = change(source, place, changed, rules, random)
        made[field] = texts
    kept = source.frame[["label", "group"]].to_dict("series")
    return pd.DataFrame({**made, **kept, "source": rows})


def change(
    source: Source, place: int, rows: np.ndarray, rules: Rules, random: np.random.Generator
) -> list[str]:
    """The texts of one field of some rows, each changed by the rules: words in their places, the rest as it
    was written; an n-gram is that part of the text. A text without any word stays as it is.
    """
    which = source.index[rows, place]
    starts, ends = source.offsets[place][which], source.offsets[place][which + 1]
    lengths = ends - starts
    kinds = source.kinds[place][ranges(starts, lengths)]
    pieces = source.pieces[place][ranges(2 * starts + which, 2 * lengths + 1)]
    places = word_places(lengths)
    old = pieces[places]
    pieces[places] = replace_words(source, old, kinds, rules, random)
    keep_apart(source, pieces, places, pieces[places] != old)
    first, n = keep_ngram(lengths, rules, random)
    text = np.concatenate([[0], np.cumsum(2 * lengths + 1)])
    whole = n == lengths
    begin = text[:-1] + np.where(whole, 0, 2 * first + 1)
    end = np.where(whole, text[1:], text[:-1] + 2 * (first + n))
    strings = source.strings[pieces].tolist()
    return ["".join(strings[a:b]) for a, b in zip(begin.tolist(), end.tolist(), strict=True)]


def keep_apart(source: Source, pieces: np.ndarray, places: np.ndarray, changed: np.ndarray) -> None:
    """Put a space beside a replacement that would be read as one word with its neighbour: "to and fro" for
    "to/fro", not "toandfro".
    """
    touching = (np.diff(places) == 2) & (pieces[places[:-1] + 1] == source.nothing)
    for place in places[:-1][touching & (changed[:-1] | changed[1:])]:
        both = source.strings[pieces[[place, place + 2]]].tolist()
        if words_of("".join(both)) != both:
            pieces[place + 1] = source.space


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The positions of several ranges, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def replace_words(
    source: Source, ids: np.ndarray, kinds: np.ndarray, rules: Rules, random: np.random.Generator
) -> np.ndarray:
    """Word ids [n] after masking and POS-guided replacement.

    A replacement is another word: drawn from its tag's frequencies without the word's own. A word alone in
    its tag stays.
    """
    x = random.random(len(ids))
    ids = ids.copy()
    ids[x < rules.mask] = source.mask
    chosen = np.flatnonzero((x >= rules.mask) & (x < rules.mask + rules.pos))
    kind = kinds[chosen]
    own = source.bounds[kind + 1] - source.bounds[kind]
    begin, end = source.tags[kind].T
    others = end - begin - own
    chosen, kind, own, begin, others = (part[others > 0] for part in (chosen, kind, own, begin, others))
    drawn = begin + random.integers(0, np.maximum(others, 1))
    drawn += np.where(drawn >= source.bounds[kind], own, 0)
    ids[chosen] = source.kind_words[np.searchsorted(source.bounds, drawn, "right") - 1]
    return ids


def keep_ngram(
    lengths: np.ndarray, rules: Rules, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Where each text's kept words begin, and how many they are: all, or with probability ``ngram`` one
    n-gram at a random place.
    """
    sampled = random.random(len(lengths)) < rules.ngram
    n = np.minimum(random.integers(1, rules.longest + 1, len(lengths)), lengths)
    first = random.integers(0, lengths - n + 1)
    return np.where(sampled, first, 0), np.where(sampled, n, lengths)
