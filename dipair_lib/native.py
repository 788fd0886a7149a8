"""Tiles of the FFNN head and of MaxSim as compiled code (``tiles.cpp``), on processors that multiply bfloat16 in tiles (AMX) and where a
compiler is.

It is compiled once per machine, into the cache folder, in about a second. Elsewhere, or with ``DIPAIR_NATIVE=0``, torch computes the same.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import torch

from . import tasks
from .models import Prepared
from .models.heads import FFNNHead, ResidualHead, SimilarityHead, cosine_of

SOURCE = Path(__file__).with_name("tiles.cpp")
NEEDED = {"amx_tile", "amx_bf16", "avx512f", "avx512bw", "avx512dq", "avx512_bf16"}
WIDEST = 1024  # hidden units of the first layer that the code has room for


def why_not() -> str:
    """Why the compiled tile cannot be used here; empty if it can."""
    if os.environ.get("DIPAIR_NATIVE") == "0":
        return "DIPAIR_NATIVE=0 switches it off"
    if platform.system() != "Linux" or not flags() >= NEEDED:
        return "the processor has no bfloat16 tiles (AMX)"
    if not compiler():
        return "there is no C++ compiler (g++ or clang++)"
    try:
        library()
    except (OSError, subprocess.SubprocessError) as error:
        return f"it could not be compiled or loaded: {error}"
    return ""


@functools.cache
def flags() -> frozenset[str]:
    """What the processor can do, as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def compiler() -> str | None:
    """``CXX``, g++ or clang++, whichever is there first."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "clang++"))), None)


@functools.cache
def library() -> Any:
    """The compiled code, with the right to use tiles."""
    command = [compiler() or "g++", "-O3", "-march=native", "-shared", "-fPIC", "-fvisibility=default"]
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join([*command, *sorted(flags())]).encode())
    path = tasks.cache_folder() / "native" / f"tiles-{digest.hexdigest()[:16]}.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        if not path.exists():
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            subprocess.run([*command, "-o", str(temporary), str(SOURCE)], check=True, capture_output=True)
            os.replace(temporary, path)
    found = ctypes.CDLL(str(path))
    if found.prepare_process() != 0:
        raise OSError("the system does not let this process use tiles")
    return found


class FFNNTile:
    """The scores of all pairs of two blocks of texts, by the compiled code.

    The sum of both shares, the biases and the last layer are float32, the product with the second layer is bfloat16 with float32 sums: off
    by the rounding of the first layer's activations and of the second layer's weights, and by nothing else.

    Args:
        head: with two hidden layers and one output.
    """

    def __init__(self, head: FFNNHead) -> None:
        second, last = head.rest
        self.hidden, self.outer = up(second.in_features), up(second.out_features)
        weight = torch.zeros(self.outer, self.hidden)
        weight[: second.out_features, : second.in_features] = second.weight.detach()
        short = weight.bfloat16()
        self.packed = torch.empty(weight.numel(), dtype=torch.int16)
        library().pack(at(short), self.hidden, self.outer, at(self.packed))
        self.bias = padded(second.bias.detach()[None], self.outer)
        self.weights = padded(last.weight.detach(), self.outer)
        self.shift = float(last.bias.detach())

    def __call__(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Shares of the first layer, float32 [m, hidden] and [n, hidden], to scores float32 [m, n], by all of torch's threads."""
        left, right = padded(left, self.hidden), padded(right, self.hidden)
        m, n = len(left), len(right)
        scores = torch.empty(m, n)

        def part(first: int, last: int) -> None:
            library().ffnn_tile(
                at(left), at(right[first:]), at(self.packed), at(self.bias), at(self.weights), ctypes.c_float(self.shift), m, last - first,
                self.hidden, self.outer, at(scores[:, first:]), ctypes.c_long(n),
            )  # fmt: skip

        shared(n, 1, part)
        return scores


class MaxSimTile:
    """MaxSim, or its weighted sum with the cosine, of all pairs of two blocks of texts; tokens are rounded to bfloat16, nothing else is."""

    def __init__(self, head: SimilarityHead) -> None:
        *cosine, maxsim = head.scale.detach()[0].tolist()
        self.maxsim, self.cosine, self.shift = maxsim, sum(cosine), float(head.shift.detach())

    def __call__(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """What ``SimilarityHead.prepare`` gave of m and n texts, to scores float32 [m, n]."""
        (a, inside), (b, real) = left[:2], right[:2]
        m, n, wide, deep, width = len(a), len(b), tokens(a.shape[1]), tokens(b.shape[1]), up(a.shape[2])
        weights = self.maxsim * inside / inside.sum(1, keepdim=True).clamp(min=1)
        weights = filled(weights[..., None], up(m), wide)[..., 0].contiguous()
        columns = filled(a, up(m), wide, width).bfloat16().view(-1, 16, width // 32, 16, 2)
        columns = columns.permute(0, 2, 3, 1, 4).contiguous()
        # What is no token of a right text is its first once more: that changes no maximum.
        spread = torch.where(real[..., None], b, b[:, :1])
        spread = torch.cat([spread, b[:, :1].expand(-1, deep - b.shape[1], -1)], dim=1)
        rows = filled(spread, up(n), deep, width).bfloat16().view(-1, 16, width // 32, 32)
        rows = rows.transpose(1, 2).contiguous()
        scores = torch.empty(up(m), up(n))

        def part(first: int, last: int) -> None:
            library().maxsim_tile(
                at(columns), at(weights), at(rows[first * deep // 16 :]), up(m), last - first, wide, deep, width, at(scores[:, first:]),
                ctypes.c_long(up(n)),
            )  # fmt: skip

        shared(up(n), 32, part)
        found = scores[:m, :n] + self.shift
        return (
            found.add_(cosine_of(left[2][:, None], right[2][None])[..., 0], alpha=self.cosine)
            if len(left) > 2
            else found
        )


class Tile:
    """What of a model's head has compiled code: the head itself, and the similarity that it corrects."""

    def __init__(self, head: FFNNTile | None, similarity: MaxSimTile | None) -> None:
        self.head, self.similarity = head, similarity

    @classmethod
    def of(cls, model: Any) -> Tile | None:
        """None for models without, or where the code cannot run."""
        corrects = isinstance(model.head, ResidualHead)
        head: Any = model.head.head if corrects else model.head
        start: Any = model.head.start if corrects else model.head
        ffnn = isinstance(head, FFNNHead) and len(head.rest) == 2 and head.last.out_features == 1
        ffnn = ffnn and up(head.rest[0].in_features) <= WIDEST
        maxsim = isinstance(start, SimilarityHead) and start.maxsim and len(start.shift) == 1
        if not (ffnn or maxsim) or (corrects and not ffnn) or why_not():
            return None
        return cls(FFNNTile(head) if ffnn else None, MaxSimTile(start) if maxsim else None)

    def __call__(self, model: Any, left: Prepared, right: Prepared) -> torch.Tensor:
        """Scores float32 [m, n]; a cosine that is corrected is torch's."""
        if not isinstance(model.head, ResidualHead):
            return self.head(left[0], right[0]) if self.head else self.similarity(left, right)  # type: ignore[misc]
        own, start = model.head.parts([left, right])
        scores = self.head(own[0][0], own[1][0])  # type: ignore[misc]
        if self.similarity:
            return scores.add_(self.similarity(*start))
        one, other = tuple(t[:, None] for t in start[0]), tuple(t[None] for t in start[1])
        return scores + model.head.start.combine(one, other)[..., 0]


def shared(n: int, step: int, part: Callable[[int, int], None]) -> None:
    """Call ``part`` with the ends of as many shares of 0 to n as torch has threads, each a whole number of steps."""
    threads = torch.get_num_threads()
    edges = [n // step * i // threads * step for i in range(threads)] + [n]
    with ThreadPoolExecutor(threads) as pool:  # ctypes lets go of the interpreter while the code runs
        list(pool.map(part, edges[:-1], edges[1:]))


def tokens(number: int) -> int:
    """Tokens of a text with padding: 1, 2, 4, 8 or multiples of 16."""
    return next((n for n in (1, 2, 4, 8) if n >= number), -(-number // 16) * 16)


def filled(values: torch.Tensor, texts: int, tokens: int, width: int = 1) -> torch.Tensor:
    """[texts, tokens, width] with zeros behind each."""
    shape = values.shape
    pad = torch.nn.functional.pad
    return pad(values, (0, width - shape[2], 0, tokens - shape[1], 0, texts - shape[0]))


def up(number: int) -> int:
    """To a whole number of 32."""
    return -(-number // 32) * 32


def padded(values: torch.Tensor, width: int) -> torch.Tensor:
    """float32 [rows, width], zeros behind, contiguous."""
    return torch.nn.functional.pad(values.float(), (0, width - values.shape[1])).contiguous()


def at(tensor: torch.Tensor) -> ctypes.c_void_p:
    """Where a tensor lies. Nothing here keeps it alive: the caller does."""
    return ctypes.c_void_p(tensor.data_ptr())
