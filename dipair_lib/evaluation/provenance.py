"""Where a row comes from: processor, versions, and the state of the working tree."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from dipair_lib.system import machine


@functools.cache
def device_name(device: str = "auto") -> str:
    """The processor that models run on here, by a parameter ``device``: the CUDA GPU's name if it is one,
    else the CPU model's.
    """
    import torch

    if device.startswith(("auto", "cuda")) and torch.cuda.is_available():
        return torch.cuda.get_device_name(None if device == "auto" else device)
    return cpu_info().get("model name") or platform.processor() or platform.machine() or "unknown"


@functools.cache
def cpu_info() -> dict[str, str]:
    """Keys and values of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def environment() -> dict[str, str | None]:
    """The environment group of a row: python, torch, transformers, platform, hardware."""
    flags = set(cpu_info().get("flags", "").split())
    told = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8") if name in flags]
    return {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
        "platform": platform.platform(),
        "hardware": " ".join([f"{machine.cores()} cores", *told]),
    }


@functools.cache
def git_state() -> dict[str, Any]:
    """git_commit and git_dirty of the working tree the library lies in; both None outside a git repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        # An installed package may lie inside somebody else's repository: only a tracked file speaks for this
        # one.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}
