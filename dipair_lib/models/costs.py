"""What a model costs by arithmetic, not by clock: operations and parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from dipair_lib.models.pair_model import PairModel, Prepared


def count_flops(call: Callable[[], Any]) -> float:
    """Floating-point operations of the matrix products within a call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def count_parameters(model: nn.Module) -> dict[str, int]:
    """All parameters, and those of word tables."""
    tables = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)]
    return {"params_total": sum(p.numel() for p in model.parameters()), "params_embedding": sum(tables)}


def params_in_combine(model: PairModel, prepared: Sequence[Prepared]) -> int:
    """Parameters that get a gradient when only ``combine`` runs."""
    with torch.enable_grad():
        model.zero_grad(set_to_none=True)
        model.combine(*prepared).sum().backward()
    used = sum(p.numel() for p in model.parameters() if p.grad is not None)
    model.zero_grad(set_to_none=True)
    return used


def sampled(rows: int, sample: int) -> np.ndarray:
    """int64: at most so many of these rows, spread evenly."""
    return np.linspace(0, rows - 1, min(sample, rows)).astype(np.int64)
