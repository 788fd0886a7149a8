"""Where a model computes, and in which numbers: the one place that decides.

``auto`` takes a CUDA GPU, then Apple's, then the CPU. Weights and optimiser stay in float32; an encoder's
arithmetic is bfloat16 where that is faster: always on a CUDA GPU that has it, on a CPU where a probe says so,
never on Apple's (not measured).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from dipair_lib.models import BaseModel

M = TypeVar("M", bound=BaseModel)
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16")


def device_of(asked: str | torch.device = "auto") -> torch.device:
    """The device of a parameter ``device``.

    Raises:
        ValueError: the name is unknown, or this machine has no such device.
    """
    if isinstance(asked, torch.device):
        return asked
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    kind = asked.partition(":")[0]
    if kind not in there:
        raise ValueError(f"device: expected one of {', '.join(DEVICES)}, but got {asked!r}")
    if not there[kind]:
        raise ValueError(
            f"device {asked!r}: this machine, or this build of PyTorch, has none: use 'auto', which takes what there is"
        )
    return torch.device(asked)


def placed_on(model: torch.nn.Module) -> torch.device:
    """The device a model's weights are on; a model without any computes on the CPU."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was told; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


_PROBED: dict[str, str] = {}


def encoder_dtype(asked: str = "auto", device: str | torch.device = "cpu") -> str:
    """``float32`` or ``bfloat16``: what was asked for, or for ``auto`` what is faster on the device.

    On a CPU a probe of some milliseconds tells, once per process: only chips with bfloat16 arithmetic gain;
    elsewhere it is several times slower.
    """
    if asked not in DTYPES:
        raise ValueError(f"dtype: expected auto, float32 or bfloat16, but got {asked!r}")
    if asked != "auto":
        return asked
    kind = torch.device(device).type
    if kind not in _PROBED:
        _PROBED[kind] = "bfloat16" if PROBES[kind]() else "float32"
    return _PROBED[kind]


def product_is_faster(size: int = 512) -> bool:
    """Whether the CPU's matrix product in bfloat16 is at least 1.5 times as fast as in float32."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(size, size).to(dtype)
        times: list[float] = []
        while len(times) < 6 and sum(times[1:]) < 0.1:  # bfloat16 may be a hundred times slower
            begun = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - begun)
        seconds[dtype] = min(times[1:])
    return seconds[torch.bfloat16] * 1.5 < seconds[torch.float32]


PROBES: dict[str, Callable[[], bool]] = {
    "cpu": product_is_faster,
    "cuda": lambda: torch.cuda.is_bf16_supported(),
    "mps": lambda: False,
}


def in_dtype(model: M, dtype: str) -> M:
    """The model with its encoder in another dtype, a copy; the model itself where it is in that dtype, or has
    no encoder (a BiLSTM).
    """
    if not model.encoders or next(model.encoders[0].parameters()).dtype == getattr(torch, dtype):
        return model.eval()
    fast = copy.copy(model)
    fast._modules = dict(model._modules)
    fast.encoder = copy.deepcopy(model.encoder).to(getattr(torch, dtype))
    return fast.eval()


def place(model: M, device: torch.device) -> M:
    """Move a network to a device, in place. On a GPU its attention is one kernel (SDPA); on a CPU the plain
    form's backward is faster.

    A model that selects tokens by attention keeps the plain form, which alone gives the weights.
    """
    fused = device.type != "cpu" and not model.needs_weights
    for encoder in model.encoders:
        if getattr(encoder, "_supports_sdpa", False):
            encoder.set_attn_implementation("sdpa" if fused else "eager")
    return model.to(device)


def ready(model: M, device: torch.device, dtype: str) -> M:
    """A network in evaluation mode on a device, its encoder in a dtype: itself where it is so, else a copy."""
    if placed_on(model).type == device.type:
        return in_dtype(model, dtype)
    fast = copy.deepcopy(model)
    for encoder in fast.encoders:
        encoder.to(getattr(torch, dtype))
    return place(fast, device).eval()


def moved(batch: Any, device: torch.device) -> Any:
    """Tensors, also within lists and tuples, on a device."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    return type(batch)(moved(part, device) for part in batch)
