"""The FFNN head's tile as compiled code (``ffnn_tile.cpp``), on processors that multiply bfloat16 in tiles (AMX) and where a compiler is.

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import torch

from . import tasks
from .models import Prepared
from .models.heads import FFNNHead, ResidualHead

SOURCE = Path(__file__).with_name("ffnn_tile.cpp")
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
    path = tasks.cache_folder() / "native" / f"ffnn_tile-{digest.hexdigest()[:16]}.so"
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

    @classmethod
    def of(cls, model: Any) -> FFNNTile | None:
        """For a model whose head (or the head that corrects a similarity) it can compute; None for others, or where the code cannot run."""
        head: Any = model.head.head if isinstance(model.head, ResidualHead) else model.head
        fits = isinstance(head, FFNNHead) and len(head.rest) == 2 and head.last.out_features == 1
        return cls(head) if fits and up(head.rest[0].in_features) <= WIDEST and not why_not() else None

    def __call__(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Shares of the first layer, float32 [m, hidden] and [n, hidden], to scores float32 [m, n], by all of torch's threads."""
        left, right = padded(left, self.hidden), padded(right, self.hidden)
        m, n = len(left), len(right)
        scores = torch.empty(m, n)
        edges = [n * i // torch.get_num_threads() for i in range(torch.get_num_threads() + 1)]

        def part(first: int, last: int) -> None:
            library().ffnn_tile(
                at(left), at(right[first:]), at(self.packed), at(self.bias), at(self.weights), ctypes.c_float(self.shift), m, last - first,
                self.hidden, self.outer, at(scores[:, first:]), ctypes.c_long(n),
            )  # fmt: skip

        with ThreadPoolExecutor(
            len(edges) - 1
        ) as pool:  # ctypes lets go of the interpreter while the code runs
            list(pool.map(part, edges[:-1], edges[1:]))
        return scores


def up(number: int) -> int:
    """To a whole number of 32."""
    return -(-number // 32) * 32


def padded(values: torch.Tensor, width: int) -> torch.Tensor:
    """float32 [rows, width], zeros behind, contiguous."""
    return torch.nn.functional.pad(values.float(), (0, width - values.shape[1])).contiguous()


def at(tensor: torch.Tensor) -> ctypes.c_void_p:
    """Where a tensor lies. Nothing here keeps it alive: the caller does."""
    return ctypes.c_void_p(tensor.data_ptr())


def tile(model: Any, compiled: FFNNTile, left: Prepared, right: Prepared) -> torch.Tensor:
    """Scores float32 [m, n] of a model whose head has compiled code; the similarity that it corrects is added by torch."""
    if not isinstance(model.head, ResidualHead):
        return compiled(left[0], right[0])
    own, start = model.head.parts([left, right])
    scores = compiled(own[0][0], own[1][0])
    return (
        scores
        + model.head.start.combine(tuple(t[:, None] for t in start[0]), tuple(t[None] for t in start[1]))[
            ..., 0
        ]
    )
