"""What a model costs by arithmetic, not by clock: operations and parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_flops(call: Callable[[], Any]) -> float:
    """Floating-point operations of the matrix products within a call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def count_parameters(model: nn.Module) -> dict[str, int]:
    """All parameters, and those of word tables."""
    tables = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)]
    return {"params_total": sum(p.numel() for p in model.parameters()), "params_embedding": sum(tables)}
