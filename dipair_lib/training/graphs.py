"""A GPU's training step recorded once and replayed: a small step of a small transformer takes longer to order
than to compute.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

AFTER = 3  # steps of one shape before it is recorded: a shape that hardly comes is not worth the tenth of a second


class GraphedBackward:
    """Forward and backward pass of a step as CUDA graphs, one for each shape of its batch; gradients lie in
    the parameters' ``grad``.

    Args:
        loss_of: from the tensors of a batch to the loss; every operation of it on the GPU, no value of it
            read.
        parameters: what gets gradients. Their ``grad`` tensors are made once and filled again at every step.
    """

    def __init__(self, loss_of: Callable[..., torch.Tensor], parameters: Sequence[nn.Parameter]) -> None:
        self.loss_of, self.parameters = loss_of, list(parameters)
        self.unrecordable = False
        self.met: Counter[Any] = Counter()
        self.recorded: dict[Any, tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]] = {}
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, its gradients left in the parameters."""
        shape = tuple((t.shape, t.dtype) for t in batch)
        self.met[shape] += 1
        if shape not in self.recorded:
            if self.met[shape] <= AFTER or self.unrecordable:
                return self.plain(batch)
            try:
                self.recorded[shape] = self.record(batch)
            except RuntimeError as error:  # an architecture that reads a value on its way, such as Longformer
                self.unrecordable = True
                torch.cuda.synchronize()
                said = f"its steps are not recorded as CUDA graphs, which makes small ones slower ({error!s:.120})"
                warnings.warn(said, stacklevel=2)
                return self.plain(batch)
        graph, inputs, loss = self.recorded[shape]
        for static, given in zip(inputs, batch, strict=True):
            static.copy_(given, non_blocking=True)
        self.clear()
        graph.replay()
        return loss.clone()

    def plain(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        """The same without a graph."""
        self.clear()
        loss = self.loss_of(*batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def clear(self) -> None:
        """Set the gradients to zero where they lie: a graph knows their addresses."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if grads:
            torch._foreach_zero_(grads)

    def record(
        self, batch: Sequence[torch.Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]:
        """One graph, with the tensors it reads and the loss that it writes; the random state is left as it
        was.
        """
        state = torch.cuda.get_rng_state()
        inputs = [t.clone() for t in batch]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.plain(inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            loss = self.loss_of(*inputs)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(state)
        return graph, inputs, loss
