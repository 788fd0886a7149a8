"""Tiles of the FFNN head and the cosine as compiled code (``tiles.cpp``), where a processor multiplies bfloat16 in tiles (AMX).

Compiled once per machine, into the cache folder, in about a second. Without a compiler, or with ``DIPAIR_NATIVE=0``, torch does the same.
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
from .models.heads import FFNNHead, ResidualHead, SimilarityHead

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


Tile = Callable[[Prepared, Prepared], torch.Tensor]


def tile_of(model: Any) -> Tile | None:
    """A model's tile by compiled code: prepared texts of both sides to scores float32 [m, n]. None where there is no code for its head, or
    none that runs here.

    There is for the FFNN with two hidden layers, for the cosine, and for the FFNN that corrects a similarity (torch computes MaxSim).
    """
    head = model.head
    if why_not():
        return None
    if isinstance(head, SimilarityHead) and not head.maxsim:
        return lambda left, right: add_similarity(head, left, right, torch.zeros(len(left[0]), len(right[0])))
    ffnn: Any = head.head if isinstance(head, ResidualHead) else head
    fits = isinstance(ffnn, FFNNHead) and len(ffnn.rest) == 2 and ffnn.last.out_features == 1
    if not fits or up(ffnn.rest[0].in_features) > WIDEST:
        return None
    compiled = FFNNTile(ffnn)
    if head is ffnn:
        return lambda left, right: compiled(left[0], right[0])
    n = head.start.tensors
    return lambda left, right: add_similarity(head.start, left[-n:], right[-n:], compiled(left[0], right[0]))


class FFNNTile:
    """The FFNN head's scores of all pairs of two blocks of texts.

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
        scores = torch.empty(len(left), len(right))

        def part(first: int, last: int) -> None:
            library().ffnn_tile(
                at(left), at(right[first:]), at(self.packed), at(self.bias), at(self.weights), ctypes.c_float(self.shift), len(left),
                last - first, self.hidden, self.outer, at(scores[:, first:]), ctypes.c_long(len(right)),
            )  # fmt: skip

        in_threads(part, len(right))
        return scores


def add_similarity(
    head: SimilarityHead, left: Prepared, right: Prepared, scores: torch.Tensor
) -> torch.Tensor:
    """Add a similarity head's line to scores [m, n], in place; the cosine from vectors split into two bfloat16 (off by about 2^-16)."""
    if head.maxsim:
        return scores.add_(
            head.combine(tuple(t[:, None] for t in left), tuple(t[None] for t in right))[..., 0]
        )
    a, b = (padded(side[0], up(side[0].shape[1])) for side in (left, right))
    scale = ctypes.c_float(float(head.scale.detach()))

    def part(first: int, last: int) -> None:
        width, stride = a.shape[1], ctypes.c_long(len(b))
        library().dot_tile(
            at(a), at(b[first:]), scale, len(a), last - first, width, at(scores[:, first:]), stride
        )

    in_threads(part, len(b))
    return scores.add_(head.shift.detach())


def in_threads(part: Callable[[int, int], None], n: int) -> None:
    """Call a part of the work for each share of n columns, by as many threads as torch has."""
    threads = torch.get_num_threads()
    edges = [n * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:  # ctypes lets go of the interpreter while the code runs
        list(pool.map(part, edges[:-1], edges[1:]))


def up(number: int) -> int:
    """To a whole number of 32."""
    return -(-number // 32) * 32


def padded(values: torch.Tensor, width: int) -> torch.Tensor:
    """float32 [rows, width], zeros behind, contiguous."""
    return torch.nn.functional.pad(values.float(), (0, width - values.shape[1])).contiguous()


def at(tensor: torch.Tensor) -> ctypes.c_void_p:
    """Where a tensor lies. Nothing here keeps it alive: the caller does."""
    return ctypes.c_void_p(tensor.data_ptr())
