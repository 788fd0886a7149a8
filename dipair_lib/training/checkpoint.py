"""A training that was stopped goes on: its weights, its optimiser and its place in the data, in one
safetensors file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dipair_lib.system import contents, disk

EVERY_S = 120.0  # seconds between two files; a training that takes less leaves none, unless it is interrupted


class CheckpointError(ValueError):
    """A checkpoint that is damaged or of another training."""


@dataclass
class State:
    """What a training has come to after a step.

    Attributes:
        step: steps done.
        loss: running mean.
        seconds: spent on them.
        seen: the dev metric at each epoch's end.
    """

    step: int = 0
    loss: float = float("nan")
    seconds: float = 0.0
    seen: list[float] = field(default_factory=list)


class Checkpoint:
    """The file of one training, its name a hash of all that the training begins with, so that no other
    training reads it.

    Args:
        folder: where; None keeps nothing.
        name: the hash.
        weights: what is trained, in a fixed order.
        optimizer, schedule: of them.
    """

    def __init__(
        self, folder: Path | None, name: str, weights: Sequence[torch.Tensor], optimizer: Any, schedule: Any
    ) -> None:
        self.path = folder / f"{name}.safetensors" if folder else None
        self.weights, self.optimizer, self.schedule = weights, optimizer, schedule
        self.on_gpu = any(weight.device.type == "cuda" for weight in weights)
        self.written = time.perf_counter()

    def due(self, at_end: bool) -> bool:
        """Whether the last file is old enough for another; at the end of a training, whether there is one
        that is not of the end.
        """
        long_ago = time.perf_counter() - self.written > EVERY_S
        return self.path is not None and (long_ago or (at_end and self.path.exists()))

    def save(self, state: State, others: Mapping[str, torch.Tensor]) -> None:
        """Write a state.

        Args:
            others: further tensors, given back by ``load``.
        """
        if self.path is None:
            return
        tensors = {f"weight {i}": weight.detach() for i, weight in enumerate(self.weights)}
        tensors |= {f"other {name}": tensor for name, tensor in others.items()}
        tensors["random"] = torch.get_rng_state()
        if self.on_gpu:
            tensors["random of the GPU"] = torch.cuda.get_rng_state()
        numbers: dict[str, dict[str, Any]] = {}
        for i, weight in enumerate(self.weights):
            for name, value in self.optimizer.state.get(weight, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer {i} {name}"] = value
                else:
                    numbers.setdefault(str(i), {})[name] = value
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        noted = {"state": vars(state), "optimizer": numbers, "groups": groups}
        noted["schedule"] = self.schedule.state_dict()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with disk.replacing(self.path, noted=True) as temporary:
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, temporary, {"training": json.dumps(noted)})
        self.written = time.perf_counter()

    def load(self) -> tuple[State, dict[str, torch.Tensor]]:
        """Put weights, optimiser, schedule and the random state where the file left them; without a file
        nothing changes.

        Returns:
            The state, and the further tensors.

        Raises:
            CheckpointError: the file is damaged.
        """
        if self.path is None or not self.path.exists():
            return State(), {}
        if contents.changed_files(self.path.with_name(f"{self.path.name}.sha256")):
            raise CheckpointError(
                f"{self.path}: a training's checkpoint whose bytes are not those that were written: delete it, and the training begins anew"
            )
        try:
            with safe_open(self.path, "pt") as file:
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
                noted = json.loads(file.metadata()["training"])
            state = State(**noted["state"])
            random, others = tensors.pop("random"), {}
            on_gpu = tensors.pop("random of the GPU", None)
            for name in [name for name in tensors if name.startswith("other ")]:
                others[name.removeprefix("other ")] = tensors.pop(name)
            with torch.no_grad():
                for i, weight in enumerate(self.weights):
                    weight.copy_(tensors.pop(f"weight {i}"))
                    if str(i) in noted["optimizer"]:
                        self.optimizer.state[weight].update(noted["optimizer"][str(i)])
            for name, tensor in tensors.items():
                _, i, key = name.split(" ", 2)
                weight = self.weights[int(i)]
                self.optimizer.state[weight][key] = tensor.to(weight.device)
            for group, values in zip(self.optimizer.param_groups, noted["groups"], strict=True):
                group.update(values)
            self.schedule.load_state_dict(noted["schedule"])
            torch.set_rng_state(random)
            if on_gpu is not None and self.on_gpu:
                torch.cuda.set_rng_state(on_gpu)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.path}: a training's checkpoint that cannot be read ({error}): delete it, and the training begins anew"
            ) from None
        return state, others
