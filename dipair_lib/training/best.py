"""Which of a training's weights are kept: those best on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dipair_lib.evaluation import metrics
from dipair_lib.inference.device import placed_on
from dipair_lib.inference.predict import predict
from dipair_lib.models import Model
from dipair_lib.training.rows import Data


class BestCheckpoint:
    """The weights of the best look at dev by a metric (higher is better); without dev rows it does nothing.

    Args:
        seen, others: of a training that goes on: the metric at its looks, and the best weights, from
            ``tensors``.
        patience: looks without a better one that end a training; 0: none do.
        against: see ``loop.fit``.
    """

    def __init__(
        self,
        metric: str,
        dev: Data | None,
        seen: Sequence[float],
        others: Mapping[str, torch.Tensor],
        patience: int = 0,
        against: Sequence[float] = (),
    ) -> None:
        self.metric, self.dev = metric, dev
        self.patience, self.against = patience, against
        self.seen = list(seen)
        self.weights = {n.removeprefix("best "): w for n, w in others.items() if n.startswith("best ")}

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        return {f"best {name}": weight for name, weight in self.weights.items()}

    def update(self, model: Model) -> None:
        """Score dev and remember the weights if no earlier look was better. An undefined metric counts as the
        worst.
        """
        if self.dev is None:
            return
        value = dev_metric(model, self.dev, self.metric)
        if not self.seen or value > max(self.seen):
            self.weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        self.seen.append(value)

    @property
    def ended(self) -> bool:
        """Whether the training is to end: no better look for long, or behind another training twice running."""
        since = len(self.seen) - 1 - int(np.argmax(self.seen)) if self.seen else 0
        here = len(self.seen)
        behind = 2 <= here <= len(self.against) and all(
            self.seen[i] < self.against[i] for i in (here - 2, here - 1)
        )
        return behind or 0 < self.patience <= since

    def rising(self, by: float) -> bool:
        """Whether the last look is better than all before by more than that."""
        return len(self.seen) > 1 and self.seen[-1] > max(self.seen[:-1]) + by

    def restore(self, model: Model) -> None:
        """Put the remembered weights back."""
        if self.weights:
            model.load_state_dict(self.weights)


def dev_metric(model: Model, dev: Data, metric: str) -> float:
    """A metric of a model in evaluation mode on dev rows; -inf where it is undefined."""
    found = metrics.evaluate(
        [metric], dev.labels, predict(model, dev.texts, device=placed_on(model), what="")
    )[metric]
    return -np.inf if found is None else found
