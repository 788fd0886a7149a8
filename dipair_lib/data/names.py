"""What people call their columns and splits."""

from __future__ import annotations

import re

SPLITS = ("train", "dev", "test")
SPLIT_NAMES = {
    "train": "train", "training": "train", "trainset": "train", "trn": "train",
    "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "devel": "dev", "development": "dev", "devset": "dev", "trial": "dev",
    "test": "test", "testing": "test", "testset": "test", "tst": "test",
}  # fmt: skip
GAIN_NAME = "grade"  # a column of this name beside a two-class label holds the gains of nDCG
LABEL_NAMES = ("label", "score", "relevance", "grade", "similarity", "class", "target", "is_duplicate")
ID_NAMES = ("id", "qid", "docid", "pid", "uid", "idx", "index", "group", "split", "__index_level_0__")
TEXT_NAMES = (
    "text", "texts", "sentence", "query", "passage", "document", "doc", "question", "answer", "premise", "hypothesis", "title", "left",
    "right", "term", "anchor", "positive", "context", "body", "review", "comment", "content", "s1", "s2", "string",
)  # fmt: skip
MORE_LABEL_NAMES = (
    "gold_label",
    "labels",
    "y",
    "gold",
    "is_match",
    "match",
    "is_same",
    "duplicate",
    "quality",
    "sentiment",
    "rating",
)


def is_known_name(cell: str) -> bool:
    """Whether a cell is a usual name of a column: "label", "gold_label", "question1", "Sentence_A", "#1 ID"."""
    plain = re.sub(r"[\W_]+", "_", cell.strip().lower()).strip("_")
    known = (*LABEL_NAMES, *MORE_LABEL_NAMES, *ID_NAMES, *TEXT_NAMES)
    bare = re.sub(r"_?(\d|a|b|left|right|l|r)$|^\d_", "", plain)
    ending = plain.endswith(("_id", "_uid", "_label", "_score", "_text")) and not re.search(
        r"\s", cell.strip()
    )
    return plain in known or bare in known or ending
