"""What is trained, and the optimisers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from dipair_lib.models import BaseModel
from dipair_lib.training.settings import TrainConfig


def trainable(model: BaseModel, config: TrainConfig) -> list[nn.Parameter]:
    """All parameters that need gradients; a transformer's word-piece embeddings are switched off unless they
    are asked for or random.
    """
    words = config.train_words or model.start.startswith("random")
    for encoder in model.encoders:
        encoder.get_input_embeddings().weight.requires_grad_(words)
    for table in model.sparse_tables:
        table.sparse = config.optimizer == "adadelta"  # AdamW takes dense gradients only
    return [p for p in model.parameters() if p.requires_grad]


def optimizer_of(
    parameters: Sequence[nn.Parameter], config: TrainConfig, steps: int, head: Sequence[nn.Parameter] = ()
) -> tuple[Any, Any]:
    """The optimiser and its schedule: warm-up then linear decay for AdamW, constant for AdaDelta.

    Args:
        parameters: trained at ``learning_rate``.
        head: further ones, trained at ``head_rate`` where that is given.
    """
    groups: list[dict[str, Any]] = [{"params": list(parameters)}]
    if head:
        groups.append({"params": list(head), "lr": config.head_rate or config.learning_rate})
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adadelta":
        optimizer: Any = Adadelta(groups, lr=config.learning_rate, rho=0.95)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    optimizer = torch.optim.AdamW(
        groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    warm = max(1, round(config.warmup * steps))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, max(0.0, (steps - s) / max(1, steps - warm)))
    )


class Adadelta(torch.optim.Optimizer):
    """AdaDelta (Zeiler 2012) that also takes sparse gradients, with the same result as torch's on the dense
    ones.

    A word vector's row without a gradient only decays its two running means, by rho per step, and does not
    move. So a row's missed steps are made up, exactly, when it is met again: a step costs what the batch's
    words cost, not what the vocabulary costs.
    """

    def __init__(
        self, parameters: Iterable[Any], lr: float = 1.0, rho: float = 0.95, eps: float = 1e-6
    ) -> None:
        super().__init__(parameters, {"lr": lr, "rho": rho, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, group["lr"], group["rho"], group["eps"])

    def update(self, p: torch.Tensor, grad: torch.Tensor, lr: float, rho: float, eps: float) -> None:
        """Move one parameter, or the rows of it that a sparse gradient names."""
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["square"], state["moved"] = torch.zeros_like(p), torch.zeros_like(p)
            state["met"] = torch.zeros(len(p), dtype=torch.int64, device=p.device) if grad.is_sparse else None
        state["step"] += 1
        if not grad.is_sparse:
            state["square"].mul_(rho).addcmul_(grad, grad, value=1 - rho)
            delta = (state["moved"] + eps).sqrt_().div_((state["square"] + eps).sqrt_()).mul_(grad)
            state["moved"].mul_(rho).addcmul_(delta, delta, value=1 - rho)
            p.sub_(delta, alpha=lr)
            return
        grad = grad.coalesce()
        rows, g = grad.indices()[0], grad.values()
        missed = (state["step"] - 1 - state["met"][rows]).to(p.dtype)[:, None]
        state["met"][rows] = state["step"]
        square = state["square"][rows] * rho ** (missed + 1) + (1 - rho) * g * g
        moved = state["moved"][rows] * rho**missed
        delta = g * ((moved + eps) / (square + eps)).sqrt()
        state["square"][rows] = square
        state["moved"][rows] = rho * moved + (1 - rho) * delta * delta
        p.index_add_(0, rows, delta, alpha=-lr)
