"""Words for the BiLSTM: how a text is cut into them, which of them have a vector, and where the vectors come
from.
"""

from __future__ import annotations

import gzip
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import regex
import torch

from dipair_lib.models.backbone import load_backbone, load_tokenizer
from dipair_lib.models.folders import EMBEDDED

MASK = "[MASK]"
# [MASK] in either case; letters and digits with their marks and joiners, and with inner apostrophes; one
# sign, of however many code points. Scripts without spaces are read character by character.
ALONE = r"[\u3040-\u30ff\p{Han}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
PART = rf"(?!{ALONE})[\p{{L}}\p{{N}}](?:(?!{ALONE})[\p{{L}}\p{{N}}\p{{M}}\u200c\u200d])*"
WORD = regex.compile(rf"\[(?:MASK|mask)\]|(?={ALONE})\X|{PART}(?:['’]{PART})*|(?![\s_])\X")
# Ids: padding; every word without a vector of its own, [MASK] too; the first word of the vocabulary.
PADDING, UNKNOWN, FIRST = 0, 1, 2
WIDTH = 300  # of the papers' word2vec; what `backbone` and `random` give
SPREAD = 0.2  # standard deviation of all vectors, about word2vec's own: with 1.0 AdaDelta's first steps move them too little


class VectorsError(ValueError):
    """A file of word vectors that cannot be used; the message names file and line."""


def words_of(text: str) -> list[str]:
    """The words of a text as they are written: "It doesn't work_here." -> It, doesn't, work, here, "."."""
    return WORD.findall(text)


def normal(text: str) -> str:
    """A text as words are looked up: in lower case, each letter one code point with its accents where Unicode
    has one (NFC).
    """
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.lower())


def vocabulary_of(texts: Iterable[str], most: int = 60_000) -> list[str]:
    """The distinct lower-case words of texts, most frequent first (ties by spelling), at most ``most``;
    [MASK] is none.
    """
    counts = Counter(word for text in texts for word in words_of(normal(text)))
    counts.pop(MASK.lower(), None)
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]]


class WordTokenizer:
    """Texts to word ids, called like a transformers tokenizer so that ``tokens.read`` takes either.

    Args:
        words: the vocabulary; word i has id i + 2.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.index = {word: number for number, word in enumerate(words, FIRST)}

    def __call__(
        self, texts: Sequence[str], truncation: bool = True, max_length: int = 128, **_: Any
    ) -> dict[str, list[list[int]]]:
        """``input_ids``: one list per text, at most ``max_length`` ids. A text without any word is one
        unknown word.
        """
        find, known = WORD.findall, self.index.get
        return {
            "input_ids": [
                [known(word, UNKNOWN) for word in find(normal(text))[:max_length]] or [UNKNOWN]
                for text in texts
            ]
        }

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Words as text."""
        words = {number: word for word, number in self.index.items()}
        return [words.get(number, "[unknown]") for number in ids]

    def num_special_tokens_to_add(self) -> int:
        """None: a text begins with its first word."""
        return 0


@dataclass(frozen=True)
class Coverage:
    """How much of a vocabulary has a vector of its own.

    Attributes:
        words: in the vocabulary.
        found: of them, in the source.
    """

    words: int
    found: int

    def __str__(self) -> str:
        return f"{self.found:,} of {self.words:,} words ({self.found / max(1, self.words):.1%}) have a vector"


def word_vectors(
    source: str, words: Sequence[str], backbone: str = EMBEDDED, seed: int = 0, beyond: int = 20_000
) -> tuple[list[str], torch.Tensor, Coverage]:
    """The vocabulary a student reads and its vectors, float32 [words, width], scaled to a common ``SPREAD``.

    Args:
        source: ``backbone`` (each word composed from the backbone's own word-piece embeddings, reduced to 300
            by PCA: no download; Tang et al. 2019 take word2vec), ``random``, or a file of word2vec or GloVe,
            text or binary (.bin), also .gz.
        words: lower-case words of the training texts.
        backbone: for ``backbone``.
        seed: of the random ones.
        beyond: so many of the source's first (most frequent) words join the vocabulary although no training
            text has them: a new text is then read with their vectors instead of as unknown words.

    Returns:
        The words, those given first; their vectors; and how many of those given were found. A word without a
        vector of its own is drawn at random with the same spread.

    Raises:
        VectorsError: the file is missing, malformed, or has no word of the vocabulary.
    """
    if source == "random":
        return list(words), random_vectors(len(words), WIDTH, seed), Coverage(len(words), 0)
    if source == "backbone":
        together = [*words, *whole_words(backbone, {*words, MASK.lower()})[:beyond]]
        table, whole = backbone_vectors(backbone, together, WIDTH)
        return together, table, Coverage(len(words), sum(whole[: len(words)]))
    found = read_vectors(Path(source), set(words), beyond)
    together = list(dict.fromkeys([*words, *found]))
    table = random_vectors(len(together), len(next(iter(found.values()))), seed)
    rows = [number for number, word in enumerate(together) if word in found]
    known = torch.from_numpy(np.stack([found[together[number]] for number in rows]))
    table[rows] = SPREAD * known / known.std().clamp(min=1e-6)
    return together, table, Coverage(len(words), sum(word in found for word in words))


def random_vectors(words: int, width: int, seed: int) -> torch.Tensor:
    """float32 [words, width], normal with the common spread."""
    return SPREAD * torch.randn(words, width, generator=torch.Generator().manual_seed(seed))


def whole_words(backbone: str, known: set[str]) -> list[str]:
    """Lower-case words that a backbone's tokenizer holds in one piece, in its order, without those known.

    WordPiece marks what goes on within a word; SentencePiece and byte pairs mark what begins one, and the
    first GPT what ends one.
    """
    tokenizer = load_tokenizer(backbone)
    pieces = [piece for piece, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    if mark := begins_words(pieces):
        begun = [piece for piece in pieces if piece.startswith(mark)]
        pieces = [tokenizer.convert_tokens_to_string([piece]).strip() for piece in begun]
    elif any(piece.endswith("</w>") for piece in pieces):
        pieces = [piece.removesuffix("</w>") for piece in pieces if piece.endswith("</w>")]
    return [p for p in dict.fromkeys(pieces) if p == normal(p) and p not in known and WORD.fullmatch(p)]


def begins_words(pieces: Collection[str]) -> str:
    """What a vocabulary puts before pieces that begin a word; "" for WordPiece and whole words (some may
    begin with a Maltese Ġ).
    """
    counts = Counter(piece[0] for piece in pieces if len(piece) > 1)
    return next((mark for mark in "▁Ġ" if counts[mark] > len(pieces) / 50), "")


def backbone_vectors(backbone: str, words: Sequence[str], width: int) -> tuple[torch.Tensor, list[bool]]:
    """float32 [words, width]: the mean of each word's piece embeddings in the backbone, centred, reduced by
    PCA, spread as all; and whether the tokenizer knows all of a word's pieces.
    """
    model: Any = load_backbone(backbone)
    tokenizer = load_tokenizer(backbone)
    # Byte pairs tell a word's beginning by the space before it.
    space = " " if begins_words(tokenizer.get_vocab()) == "Ġ" else ""
    given = [space + word for word in words]
    pieces = tokenizer(given, add_special_tokens=False)["input_ids"] if words else []
    table = model.get_input_embeddings().weight.detach().float()
    lengths = torch.tensor([len(p) for p in pieces])
    flat = torch.tensor([i for p in pieces for i in p], dtype=torch.int64)
    starts = torch.cumsum(lengths, 0) - lengths
    vectors = torch.nn.functional.embedding_bag(
        flat, table, starts, mode="mean"
    )  # a word of no piece is zero
    vectors = vectors - vectors.mean(0)
    _, axes = torch.linalg.eigh(vectors.T @ vectors)
    reduced = vectors @ axes.flip(1)[:, :width]
    if reduced.shape[1] < width:  # a backbone narrower than asked for: the rest stays zero
        reduced = torch.nn.functional.pad(reduced, (0, width - reduced.shape[1]))
    known = [tokenizer.unk_token_id not in p for p in pieces]
    return SPREAD * reduced / reduced.std().clamp(min=1e-6), known


# --- files of word vectors --------------------------------------------------------------------------------------------------------


def read_vectors(path: Path, words: set[str], beyond: int = 0) -> dict[str, np.ndarray]:
    """The vectors of a file for some lower-case words, and for its first ``beyond`` others; streamed, the
    rest is never kept.

    A word written so in the file wins; else its first cased spelling ("Paris" for "paris": files are sorted
    by frequency).

    Args:
        path: word2vec text (a first line of count and width), GloVe text (none), or word2vec binary (.bin);
            also .gz.

    Returns:
        word -> float32 [width].

    Raises:
        VectorsError: naming file and line (or entry) for a wrong width, something that is no number, a file
            cut off, no word found.
    """
    if not path.is_file():
        raise VectorsError(
            f"{path}: no such file: `vectors` is 'backbone', 'random', or a word2vec or GloVe file"
        )
    binary = ".bin" in (suffix.lower() for suffix in path.suffixes)
    found: dict[str, np.ndarray] = {}
    exact: set[str] = set()
    others: set[str] = set()

    def wanted(word: str) -> bool:
        lower = normal(word)
        if word not in words and lower not in words and len(others) < beyond and WORD.fullmatch(word):
            others.add(lower)
        return word in words or lower in words or lower in others

    open_file: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with open_file(path, "rb") as file:
            for word, vector in (binary_entries if binary else text_entries)(path, file, wanted):
                if word == normal(word) and word not in exact:
                    found[word] = vector
                    exact.add(word)
                else:
                    found.setdefault(normal(word), vector)
    except (gzip.BadGzipFile, EOFError) as error:
        raise VectorsError(f"{path}: is cut off or not gzip ({error}): download it again") from None
    if not found.keys() & words:
        raise VectorsError(
            f"{path}: none of the {len(words):,} words of the training texts is in it: is it of another language?"
        )
    return found


def text_entries(
    path: Path, file: BinaryIO, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, np.ndarray]]:
    """Word and vector of each line that is wanted; every line's width is checked, only wanted lines are
    turned into numbers.
    """
    width = 0
    for number, line in enumerate(file, 1):
        parts = line.rstrip(b" \r\n").split(b" ")
        if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
            width = int(parts[1])
            continue
        width = width or len(parts) - 1
        where = f"{path}, line {number}"
        if width < 1:
            raise VectorsError(f"{where}: expected a word and its numbers, but got {line[:40]!r}")
        # A few words of the large GloVe files hold spaces themselves: the numbers are the last ones.
        if len(parts) <= width or (len(parts) > width + 1 and is_number(parts[-width - 1])):
            raise VectorsError(
                f"{where}: expected a word and {width} numbers, but got {len(parts) - 1} numbers: "
                "the line is broken or the file is cut off"
            )
        word = b" ".join(parts[:-width]).decode("utf8", "replace")
        if wanted(word):
            yield word, numbers(parts[-width:], where)


def numbers(parts: list[bytes], where: str) -> np.ndarray:
    """float32 values of a line."""
    try:
        vector = np.array(parts, dtype=np.float32)
    except ValueError:
        bad = next(part for part in parts if not is_number(part))
        raise VectorsError(f"{where}: expected numbers, but got {bad[:40]!r}") from None
    return finite(vector, where)


def finite(vector: np.ndarray, where: str) -> np.ndarray:
    """The vector, unless something in it is NaN or infinite."""
    if not np.isfinite(vector).all():
        raise VectorsError(f"{where}: a vector holds NaN or infinity: take another file, or delete the entry")
    return vector


def is_number(part: bytes) -> bool:
    """Whether some characters are a decimal number."""
    try:
        float(part)
    except ValueError:
        return False
    return True


def binary_entries(
    path: Path, file: BinaryIO, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, np.ndarray]]:
    """Word and vector of each entry of word2vec's binary format: "count width\\n", then word, space, float32
    values.
    """
    head = file.readline(100).split()
    if len(head) != 2 or not all(part.isdigit() for part in head):
        raise VectorsError(
            f"{path}: expected word2vec's binary header (count and width), but got {b' '.join(head)[:40]!r}: "
            "a text file should not be called .bin"
        )
    count, width = map(int, head)
    for number in range(1, count + 1):
        where = f"{path}, entry {number} of {count:,}"
        word = b""
        while (byte := file.read(1)) != b" ":
            if not byte or len(word) > 2000:
                raise VectorsError(f"{where}: the file is cut off: download it again")
            word += byte
        values = file.read(4 * width)
        if len(values) != 4 * width:
            raise VectorsError(
                f"{where}: expected {4 * width} bytes, but got {len(values)}: the file is cut off, download it again"
            )
        name = word.lstrip(b"\n").decode("utf8", "replace")
        if wanted(name):
            yield name, finite(np.frombuffer(values, "<f4"), where)
