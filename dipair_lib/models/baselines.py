"""Rows every suite needs to stay honest: a constant, and words in common (TF-IDF)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression

from dipair_lib.models.pair_model import BaseModel
from dipair_lib.models.tokens import Texts

NO_COSTS = dict.fromkeys(
    ("params_embedding", "params_per_pair", "flops_per_text", "flops_per_pair", "bytes_per_text")
)


class Constant(BaseModel):
    """The same logits for every row: the class frequencies of the training split, or the mean score. No
    ranking beats chance with it.
    """

    kind = "constant"
    per_pair: Literal[False] = False
    reads_texts: Literal[True] = True

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.settings = {"logits": [float(x) for x in logits]}

    @classmethod
    def fit(cls, labels: np.ndarray, classes: int) -> Constant:
        """labels [n]; classes 0 means a score."""
        if not classes:
            return cls([float(np.mean(labels))])
        share = np.bincount(labels, minlength=classes) / len(labels)
        return cls(
            [float(np.log(share[1] / share[0]))] if classes == 2 else np.log(share.clip(1e-9)).tolist()
        )

    def predict(self, texts: Texts) -> np.ndarray:
        """float32 [rows, outputs]."""
        return np.tile(np.asarray(self.settings["logits"], np.float32), (len(texts), 1))

    def describe(self) -> dict[str, Any]:
        return {"model": "constant", "family": "constant"}

    def costs(self, texts: Texts, sample: int = 8) -> dict[str, Any]:
        return {**NO_COSTS, "params_total": len(self.settings["logits"])}


class TfIdf(BaseModel):
    """Lexical baseline: for pairs the cosine of the TF-IDF vectors, for single texts a linear classifier on
    them.

    Scale and shift (or the classifier) are fitted on the training split, so that its logits have a threshold
    that was not chosen on test.
    """

    kind = "tfidf"
    per_pair: Literal[False] = False
    reads_texts: Literal[True] = True

    def __init__(self, vocabulary: list[str], weights: dict[str, np.ndarray], fields: int) -> None:
        super().__init__()
        self.settings = {"vocabulary": vocabulary, "fields": fields}
        self.weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        self.vectorizer = vectorizer(vocabulary)
        self.vectorizer.idf_ = self.weights["idf"]

    @classmethod
    def fit(cls, texts: Texts, labels: np.ndarray, classes: int) -> TfIdf:
        """Fit on the training split; labels [rows], class index or score (classes 0)."""
        if len(texts.distinct) > 2:
            raise ValueError(
                f"TF-IDF: expected one field or a pair, but the task has {len(texts.distinct)} fields"
            )
        found = vectorizer().fit([text for field in texts.distinct for text in field])
        words = found.get_feature_names_out().tolist()
        model = cls(
            words, {"idf": found.idf_, "coef": np.ones((1, 1)), "shift": np.zeros(1)}, len(texts.distinct)
        )
        features = model.features(texts)
        line = LogisticRegression(C=10.0, max_iter=1000) if classes else LinearRegression()
        line.fit(features, labels)
        model.weights |= {"coef": np.atleast_2d(line.coef_), "shift": np.atleast_1d(line.intercept_)}
        return model

    def prepare(self, texts: list[str]) -> sparse.csr_matrix:
        """Once per text: unit TF-IDF vectors, sparse [texts, words]."""
        return self.vectorizer.transform(texts).tocsr()

    def combine(self, *prepared: sparse.csr_matrix) -> np.ndarray:
        """Per pair: float32 logits [pairs, outputs] of aligned vectors."""
        features = prepared[0] if len(prepared) == 1 else cosines(*prepared)
        return np.asarray(features @ self.weights["coef"].T + self.weights["shift"], np.float32)

    def features(self, texts: Texts) -> Any:
        """What the fitted line reads: [rows, 1] cosines for pairs, [rows, words] for single texts."""
        vectors = [self.prepare(t)[texts.index[:, field]] for field, t in enumerate(texts.distinct)]
        return vectors[0] if len(vectors) == 1 else cosines(*vectors)

    def predict(self, texts: Texts) -> np.ndarray:
        """float32 [rows, outputs]."""
        return self.combine(
            *(self.prepare(t)[texts.index[:, field]] for field, t in enumerate(texts.distinct))
        )

    def describe(self) -> dict[str, Any]:
        return {"model": "TF-IDF", "family": "lexical"}

    def costs(self, texts: Texts, sample: int = 8) -> dict[str, Any]:
        """A sparse vector's bytes are its stored entries (8 bytes of value, 4 of index)."""
        entries = [self.prepare(t[:500]).nnz / min(500, len(t)) for t in texts.distinct]
        total = sum(w.size for w in self.weights.values())
        return {**NO_COSTS, "params_total": total, "bytes_per_text": float(np.mean(entries)) * 12}

    def tensors(self, frozen_encoder: bool = False) -> dict[str, torch.Tensor]:
        """The fitted numbers."""
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in self.weights.items()}


def cosines(left: sparse.csr_matrix, right: sparse.csr_matrix) -> np.ndarray:
    """[pairs, 1]: dot products of aligned unit rows."""
    return np.asarray(left.multiply(right).sum(axis=1)).reshape(-1, 1)


def vectorizer(vocabulary: list[str] | None = None) -> TfidfVectorizer:
    """Word TF-IDF with sublinear counts and English stop words left out."""
    return TfidfVectorizer(
        vocabulary=vocabulary, sublinear_tf=True, stop_words="english", max_features=50_000
    )
