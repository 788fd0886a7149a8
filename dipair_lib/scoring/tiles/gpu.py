"""Tiles of the FFNN head on a GPU, by one kernel (``fused``) that writes scores or only those that reach a
floor.

Used where a CUDA GPU with bfloat16 and Triton are; elsewhere, or with ``DIPAIR_GPU=0``, the CPU computes the
same.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from dipair_lib.models import PairModel, Prepared
from dipair_lib.models.heads import FFNNHead, SimilarityHead
from dipair_lib.scoring.collection import Collection

ROWS = 128  # right texts of a program: the lines of its matrix product
LINES = 128  # left texts that pass a program's right ones
MAX_CANDIDATES = 1 << 22  # scores that reach their floor kept of one call, 12 bytes each
PAIRS = 1 << 27  # of one call
SPARE = 4 << 30  # bytes left free where a collection is held on the GPU
READ = 65_536  # of its texts brought there together


def unavailable_reason() -> str:
    """Why the kernel cannot be used here; empty if it can."""
    if os.environ.get("DIPAIR_GPU") == "0":
        return "DIPAIR_GPU=0 switches it off"
    if interpreted():
        return "TRITON_INTERPRET=1 runs kernels on the CPU, to test them"
    if not torch.cuda.is_available():
        return "there is no CUDA GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return "the GPU does not multiply bfloat16"
    return "" if importlib.util.find_spec("triton") else "Triton is not installed"


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, in NumPy."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def free() -> int:
    """Bytes that are free on the GPU."""
    return int(torch.cuda.mem_get_info()[0])


def shared() -> int:
    """Bytes of fast memory that a program may have."""
    return int(getattr(torch.cuda.get_device_properties(), "shared_memory_per_block_optin", 48 << 10))


class Candidates(NamedTuple):
    """Pairs whose score reaches the floor of its left text or is not finite, by left, then right text: int64,
    int64, float32 [found].

    Attributes:
        pairs: scored for them.
    """

    left: torch.Tensor
    right: torch.Tensor
    score: torch.Tensor
    pairs: int


class Tile:
    """The FFNN head, or its sum with the cosine that it corrects, of all pairs of two blocks of texts.

    Shares of the first layer, activations and the second layer's weights are rounded to bfloat16, sums and
    the rest are float32.

    Args:
        head: with two hidden layers and one output.
        start: the cosine that it corrects.
    """

    def __init__(self, head: FFNNHead, start: SimilarityHead | None = None) -> None:
        second, last = head.rest
        self.device = "cpu" if interpreted() else "cuda"
        self.hidden, self.outer = up(second.in_features), up(second.out_features)
        self.weight = self.padded(second.weight.detach().T, self.hidden, self.outer).bfloat16()
        self.bias = self.padded(second.bias.detach()[None], 1, self.outer)[0]
        self.last = self.padded(last.weight.detach(), 1, self.outer)[0]
        self.shift = float(last.bias.detach()) + (float(start.shift.detach()) if start else 0.0)
        self.scale = float(start.scale.detach()) if start else None

    @classmethod
    def of(cls, model: PairModel) -> Tile | None:
        """None for models without such a head, or where the kernel cannot run."""
        head, start = model.head.inner, model.head.line
        if not (isinstance(head, FFNNHead) and len(head.rest) == 2 and head.last.out_features == 1):
            return None
        if (start is not None and start.maxsim) or unavailable_reason():
            return None
        second = head.rest[0]
        # its weights and a program's right texts, and some kilobytes to exchange numbers in
        needed = 2 * up(second.in_features) * (up(second.out_features) + ROWS) + (8 << 10)
        return cls(head, start) if needed <= shared() else None

    def __call__(self, model: PairModel, left: Prepared, right: Prepared) -> torch.Tensor:
        """What ``head.prepare`` gave of m and n texts, to scores float32 [m, n] in the computer's memory."""
        return self.scores(self.side(left), self.side(right)).cpu()

    def side(self, prepared: Prepared) -> Prepared:
        """Texts as the kernel reads them, on the GPU: the share bfloat16 [texts, hidden] and, if a cosine is
        corrected, its vectors.
        """
        share, *vectors = prepared
        return self.padded(share, len(share), self.hidden).bfloat16(), *(v.to(self.device) for v in vectors)

    def scores(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """Scores float32 [m, n] on the GPU, of what ``side`` gave."""
        out = torch.empty(len(left[0]), len(right[0]), device=self.device)
        self.launch(left, right, out)
        return out

    def above(
        self, left: Prepared, right: Prepared, thresholds: torch.Tensor, room: int = MAX_CANDIDATES
    ) -> Candidates | None:
        """The pairs that reach ``thresholds``, float32 [m], or None where there are more than ``room``. The
        other scores are not written.
        """
        out = torch.empty(room, device=self.device)
        found = torch.empty(room, dtype=torch.int64, device=self.device)
        count = torch.zeros(1, dtype=torch.int32, device=self.device)
        self.launch(left, right, out, thresholds.contiguous(), found, count)
        if (number := int(count)) > room:
            return None
        places, order = found[:number].sort()
        return Candidates(places >> 32, places & 0xFFFFFFFF, out[order], len(left[0]) * len(right[0]))

    def launch(self, left: Prepared, right: Prepared, out: torch.Tensor, *chosen: torch.Tensor) -> None:
        """Run the kernel. ``chosen``: thresholds, found, count."""
        import triton.language as tl  # Triton is not everywhere

        from dipair_lib.scoring.tiles import fused

        m, n = len(left[0]), len(right[0])
        start = out if self.scale is None else (left[1] * self.scale) @ right[1].T
        thresholds, found, count = chosen or (out, out, out)
        dtype = tl.float32 if interpreted() else tl.bfloat16
        fused.ffnn[-(-n // ROWS), -(-m // LINES)](
            left[0].contiguous(), right[0].contiguous(), self.weight, self.bias, self.last, self.shift, start,
            thresholds, out, found, count, len(out), m, n,
            HIDDEN=self.hidden, OUTER=self.outer, ROWS=ROWS, LINES=LINES, SUMS=dtype, FACTORS=dtype,
            START=self.scale is not None, CHOOSE=bool(chosen), num_warps=8,
        )  # fmt: skip

    def candidates(
        self,
        left: Prepared,
        right: Callable[[int, int], Prepared],
        n: int,
        thresholds: Callable[[], torch.Tensor],
    ) -> Iterator[Candidates]:
        """The pairs of m left with n right texts that reach their thresholds, span after span of right texts.

        The first span is so short that all of its pairs have room, later ones double while what reaches the
        thresholds has.

        Args:
            left: of ``side``.
            right: gives the same of right texts from a first to behind a last.
            thresholds: asked before each span, float32 [m].
        """
        m = len(left[0])
        room = max(MAX_CANDIDATES, m)
        at, wide = 0, room // m
        while at < n:
            end = min(at + wide, n)
            found = self.above(left, right(at, end), thresholds(), room)
            if found is None:
                wide = (end - at) // 2
                continue
            yield found._replace(right=found.right + at)
            at, wide = end, max(1, min(2 * wide, PAIRS // m))

    def padded(self, values: torch.Tensor, rows: int, width: int) -> torch.Tensor:
        """float32 [rows, width] on the GPU, zeros behind, contiguous."""
        behind = (0, width - values.shape[1], 0, rows - values.shape[0])
        return torch.nn.functional.pad(values.to(self.device).float(), behind).contiguous()


class ResidentCollection:
    """A collection's texts as the kernel reads them: on the GPU all the time if they fit, or else read
    whenever they are asked for.
    """

    def __init__(self, tile: Tile, texts: Collection) -> None:
        self.tile, self.texts = tile, texts
        first = tile.side(texts.block(0, 1))
        self.all: Prepared | None = None
        if len(texts) * sum(t.nbytes for t in first) + SPARE <= free():
            self.all = tuple(t.new_empty(len(texts), *t.shape[1:]) for t in first)
            for i in range(0, len(texts), READ):
                for whole, part in zip(self.all, self.read(i, min(i + READ, len(texts))), strict=True):
                    whole[i : i + READ] = part

    def read(self, start: int, stop: int) -> Prepared:
        """Texts ``start`` to ``stop`` from disk."""
        return self.tile.side(self.texts.block(start, stop))

    def block(self, start: int, stop: int) -> Prepared:
        """Texts ``start`` to ``stop``."""
        return self.read(start, stop) if self.all is None else tuple(t[start:stop] for t in self.all)


def up(number: int) -> int:
    """To a power of two, 16 at least: what a kernel's product is made of."""
    return max(16, 1 << (number - 1).bit_length())
