"""A device that is not there, for machines without a GPU: its tensors say that they are on ``meta`` and hold their numbers on the CPU.

As on a real device, a tensor of one does not meet a tensor of the other in an operation, and none of its own becomes an array. What a GPU
allows is allowed here: numbers without an axis, copies, and positions on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from dipair_lib.inference.device import PROBES

THERE = torch.device("meta")
aten: Any = torch.ops.aten
# Operations that may meet tensors of both: a copy, and positions, which a device fetches for itself.
BOTH = (aten.copy_.default, aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class There(torch.Tensor):
    """A tensor on the device that is not there; ``held`` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=THERE,
        )
        made.held = held
        return made

    def data_ptr(self) -> int:
        """Where the numbers are."""
        return self.held.data_ptr()

    def tolist(self) -> Any:
        """The numbers, fetched."""
        return self.held.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.held!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """Within it the device is there: what is made on it is made."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation, on the numbers."""
    if func is aten._has_compatible_shallow_copy_type.default:
        return False  # so that a module that moves gets new parameters
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    ours = [x for x in given if isinstance(x, There)]
    foreign = [x for x in given if not isinstance(x, There) and x.dim()]
    if ours and foreign and func not in BOTH:
        raise RuntimeError(f"{func}: tensors on two devices, {THERE} and {foreign[0].device}")
    to = next((x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.device)), None)
    there = bool(ours) if to is None else to == THERE
    plain_args, plain_kwargs = tree_map(plain, (args, kwargs))
    found = func(*plain_args, **plain_kwargs)
    if func._schema.is_mutable:
        return kwargs.get("out", args[0])
    if to is not None and not there:  # what was fetched is another tensor
        return tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, found)
    # A view of a tensor that records its changes records them too, also in inference mode.
    view = any(one.alias_info for one in func._schema.returns)
    recorded = view and not any(x.is_inference() for x in ours)
    with torch.inference_mode(torch.is_inference_mode_enabled() and not recorded):
        return tree_map(lambda x: There(x) if there and isinstance(x, torch.Tensor) else x, found)


def plain(x: Any) -> Any:
    """What the CPU takes in place of an argument."""
    if isinstance(x, There):
        return x.held
    return torch.device("cpu") if isinstance(x, torch.device) else x


@contextmanager
def stand_in() -> Iterator[torch.device]:
    """Within it this machine has the device."""
    with mock.patch.dict(PROBES, {THERE.type: lambda: False}), Device():
        yield THERE
