"""The compiled code of the tiles: whether this machine can use it, compiled once, loaded."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import filelock

from dipair_lib.system import disk, machine

SOURCE = Path(__file__).with_name("tiles.cpp")
HEADER = SOURCE.with_name("product.h")
NEEDED = {"avx512f", "avx512bw", "avx512dq", "avx512_bf16"}
AMX = {"amx_tile", "amx_bf16"}
PATIENCE = 60.0  # seconds that another process may take to compile


def unavailable_reason() -> str:
    """Why the compiled tile cannot be used here; empty if it can."""
    if os.environ.get("DIPAIR_NATIVE") == "0":
        return "DIPAIR_NATIVE=0 switches it off"
    if platform.system() != "Linux":
        return "it is for Linux"
    if not flags() >= NEEDED:
        return "the processor does not multiply bfloat16 (AVX512_BF16)"
    if not compiler():
        return "there is no C++ compiler (g++ or clang++)"
    return failure()


@functools.cache
def failure() -> str:
    """Why the code cannot be compiled or loaded, found out once; empty if it can."""
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
    """The compiled code."""
    command = [compiler() or "g++", "-O3", "-march=native", "-shared", "-fPIC", "-fvisibility=default"]
    built_of = HEADER.read_bytes() + SOURCE.read_bytes() + " ".join([*command, *sorted(flags())]).encode()
    digest = hashlib.sha256(built_of)
    path = machine.cache_folder() / "native" / f"tiles-{digest.hexdigest()[:16]}.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock spares others the work and nothing more: a file of it that an earlier run left must not stop
    # anyone.
    if not path.exists():
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(f"{path}.lock", timeout=PATIENCE):
            if not path.exists():
                compile_to(path, command)
        if not path.exists():
            compile_to(path, command)
    return ctypes.CDLL(str(path))


def compile_to(path: Path, command: list[str]) -> None:
    """Compile the code under a name of its own, then rename."""
    with disk.replacing(path) as temporary:
        subprocess.run([*command, "-o", str(temporary), str(SOURCE)], check=True, capture_output=True)


@functools.cache
def backends() -> tuple[str, ...]:
    """How this process can multiply, the fastest first: in ``tiles``, where the processor, the compiler and
    the system let it, and in ``vectors``.
    """
    tiles = flags() >= AMX and library().prepare_process() == 0
    return ("tiles", "vectors") if tiles else ("vectors",)


def code(head: str, way: str = "") -> Any:
    """What computes a head: "ffnn", "compare", "maxsim" or "transformer"; by one of ``backends``, by default
    the fastest.
    """
    function = ctypes.c_void_p.in_dll(library(), f"{head}_{way or backends()[0]}")
    return ctypes.CFUNCTYPE(None)(function.value or 0)
