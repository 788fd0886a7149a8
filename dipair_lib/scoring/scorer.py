"""Scoring: a student over texts in memory, over explicit pairs of two encoded collections, or over all of
them, tile by tile.

What is scored together is a job (see ``jobs``), and each of its units leaves a part. A unit needs nothing but
the job's folder and its own number, so one process, many, or many machines can share a job, and whatever is
killed, only what has no part yet is done again, to the same bytes.

One pair, one score: with the encoder in float32 a pair's score does not depend on what else is scored with it, but for the last bits that
sums of another order leave (1e-6 of the score, or of 1 where it is smaller; a test holds it). Where bfloat16 is the faster arithmetic
(``auto``) an encoder's outputs round to it, and what a text's batch looks like decides some of these roundings: the same pair may then
score some thousandths apart. An export measures on its card what bfloat16 changes. ``dtype="float32"`` of ``Scorer``, and ``encode
--encoder-dtype float32``, avoid it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dipair_lib import inference, models
from dipair_lib.evaluation import provenance
from dipair_lib.inference.device import device_of, encoder_dtype, ready
from dipair_lib.models import PairModel, Prepared
from dipair_lib.models.tokens import tokenize
from dipair_lib.scoring import manifest
from dipair_lib.scoring.tiles import gpu, native, torch_tile


class Scorer:
    """A student that scores texts, in five lines: load, ``prepare`` each side once, ``score`` pairs, ``rank``
    candidates.

    Scores are the student's logits: for two classes the log-odds of the second, for graded labels the grade.
    Texts are encoded on ``device``, and what was prepared of them lies in the computer's memory; pairs are
    scored on the CPU, except by ``fast_tile`` where the head has a kernel for the GPU.

    Args:
        dtype: of the encoder's arithmetic: ``auto`` takes bfloat16 where it is faster; with ``float32`` a
            pair's score is its own to 1e-6 (see the module), whatever it is scored with. Heads compute in
            float32 in either case.

    Raises:
        ModelError: the student does not encode each text once, or has several scores. ValueError: no such
            device or dtype.
    """

    def __init__(
        self, model: models.BaseModel, device: str | torch.device = "auto", dtype: str = "auto"
    ) -> None:
        if not isinstance(model, PairModel):
            raise models.ModelError(
                f"{model.describe()['model']}: expected a student that encodes each text once"
            )
        if model.outputs != 1:
            raise models.ModelError(f"expected a student with one score, but it has {model.outputs} classes")
        self.model, self.device = model, device_of(device)
        self.encoder = ready(model, self.device, encoder_dtype(dtype, self.device))
        on_gpu = gpu.Tile.of(model) if str(device) != "cpu" else None
        self.compiled: Any = on_gpu or native.Tile.of(model)
        self.tokenizer = model.tokenizer

    @classmethod
    def load(cls, run: Path | str, device: str | torch.device = "auto", dtype: str = "auto") -> Scorer:
        """A run's student (``results/demo/rows/<run>``) or an exported folder."""
        return cls(models.load(manifest.student_folder(run)), device, dtype)

    @property
    def where(self) -> str:
        """Where pairs are scored, in words; with a GPU that does not score them, why."""
        if isinstance(self.compiled, gpu.Tile):
            return f"the best found by a kernel on {provenance.device_name(str(self.device))}, then scored on the CPU"
        why = native.missing(self.model)
        cpu = f"scored on the CPU, {provenance.device_name('cpu')}" + (
            f", without compiled tiles ({why})" if why else ""
        )
        if self.device.type == "cpu":
            return cpu
        return f"{cpu}: {gpu.unavailable_reason() or 'this head has no kernel for the GPU'}"

    def prepare(self, texts: Sequence[str], field: int) -> Prepared:
        """Encode texts of a field, everything that is done once per text: tensors [texts, ...].

        Raises:
            ValueError: no texts, or what is no list of texts.
        """
        if isinstance(texts, str):
            raise ValueError(
                f"expected a list of texts of field {field}, but got the text {texts!r:.80}: [text]"
            )
        foreign = [one for one in texts if not isinstance(one, str)]
        if foreign:
            raise ValueError(f"expected texts of field {field}, but got {foreign[0]!r:.80}")
        if not len(texts):
            raise ValueError(f"prepare: expected at least one text of field {field}, but got none")
        tokens = tokenize(self.tokenizer, list(texts), self.model.read_lengths[field])
        with torch.inference_mode():
            return tuple(t.cpu() for t in inference.prepare_all(self.encoder, tokens, field, what=""))

    def score(self, *sides: Sequence[str] | Prepared) -> np.ndarray:
        """Scores float32 [pairs] of aligned texts: one sequence of texts, or what ``prepare`` gave of them,
        for each field.
        """
        prepared = [self.prepared(side, field) for field, side in enumerate(sides)]
        counts = [len(p[0]) for p in prepared]
        if len(set(counts)) != 1 or len(counts) != len(self.model.read_lengths):
            raise ValueError(
                f"score: expected {len(self.model.read_lengths)} sides of as many texts each, but got {counts}"
            )
        with torch.inference_mode():
            parts = [
                self.model.combine(*(tuple(t[i : i + 2048] for t in p) for p in prepared))[:, 0]
                for i in range(0, counts[0], 2048)
            ]
        return torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)

    def tile(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """Scores float32 [m, n]: each of m left texts with each of n right ones."""
        with torch.inference_mode():
            return torch_tile.tile(self.model, left, right)

    def fast_tile(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """As ``tile``, off by the rounding of a bfloat16 product where there is compiled code for the head."""
        if self.compiled is None:
            return self.tile(left, right)
        with torch.inference_mode():
            return self.compiled(self.model, left, right)

    def rank(self, query: str, candidates: Sequence[str] | Prepared, top: int = 0) -> pd.DataFrame:
        """Candidates by falling score, ties in their own order: columns place (in ``candidates``) and score;
        ``top`` of them, 0 for all.
        """
        scores = self.tile(self.prepare([query], 0), self.prepared(candidates, 1))[0].numpy()
        order = np.argsort(-scores, kind="stable")[: top or None]
        return pd.DataFrame({"place": order, "score": scores[order]})

    def prepared(self, side: Sequence[str] | Prepared, field: int) -> Prepared:
        """Texts are encoded; what was is passed through."""
        if isinstance(side, tuple) and side and isinstance(side[0], torch.Tensor):
            return side
        return self.prepare(side, field)  # type: ignore[arg-type]
