"""How tensors lie in memory for the compiled tiles: padded, in blocks, in bfloat16."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from dipair_lib.scoring.tiles import compilation


def shared(n: int, step: int, part: Callable[[int, int], None]) -> None:
    """Call ``part`` with the ends of as many shares of 0 to n as torch has threads, each a whole number of
    steps.
    """
    threads = torch.get_num_threads()
    edges = [n // step * i // threads * step for i in range(threads)] + [n]
    with ThreadPoolExecutor(threads) as pool:  # ctypes lets go of the interpreter while the code runs
        list(pool.map(part, edges[:-1], edges[1:]))


def tokens(number: int) -> int:
    """Tokens of a text with padding: 1, 2, 4, 8 or multiples of 16."""
    return next((n for n in (1, 2, 4, 8) if n >= number), -(-number // 16) * 16)


def filled(values: torch.Tensor, texts: int, tokens: int, width: int = 1) -> torch.Tensor:
    """[texts, tokens, width] with zeros behind each."""
    shape = values.shape
    pad = torch.nn.functional.pad
    return pad(values, (0, width - shape[2], 0, tokens - shape[1], 0, texts - shape[0]))


def by_head(values: torch.Tensor, heads: int) -> torch.Tensor:
    """[..., width] -> [..., heads, a head's part], with zeros up to a whole number of 32 behind each part."""
    values = values.unflatten(-1, (heads, -1))
    return torch.nn.functional.pad(values, (0, up(values.shape[-1]) - values.shape[-1]))


def columns_of(values: torch.Tensor) -> torch.Tensor:
    """Columns of a product as bfloat16, from [columns, heads, width]: [columns / 16, heads, width / 32, 16
    pairs, 16 columns, 2].
    """
    return (
        values.bfloat16()
        .unflatten(2, (-1, 16, 2))
        .unflatten(0, (-1, 16))
        .permute(0, 2, 3, 4, 1, 5)
        .contiguous()
    )


def rows_of(values: torch.Tensor) -> torch.Tensor:
    """Rows of a product as bfloat16, from [rows, heads, width]: [rows / 16, heads, width / 32, 16 rows, 32]."""
    return values.bfloat16().unflatten(2, (-1, 32)).unflatten(0, (-1, 16)).permute(0, 2, 3, 1, 4).contiguous()


def packed(weight: torch.Tensor, inner: int, outer: int) -> torch.Tensor:
    """A layer's weights as columns of a product, bfloat16 in the order that the code reads, zeros behind
    inputs and outputs.
    """
    weight = weight.detach()
    short = (
        torch.nn.functional.pad(weight, (0, inner - weight.shape[1], 0, outer - weight.shape[0]))
        .bfloat16()
        .contiguous()
    )
    found = torch.empty(short.numel(), dtype=torch.int16)
    compilation.library().pack(at(short), inner, outer, at(found))
    return found


def up(number: int) -> int:
    """To a whole number of 32."""
    return -(-number // 32) * 32


def padded(values: torch.Tensor, width: int) -> torch.Tensor:
    """float32 [rows, width], zeros behind, contiguous."""
    return torch.nn.functional.pad(values.float(), (0, width - values.shape[1])).contiguous()


def at(tensor: torch.Tensor) -> ctypes.c_void_p:
    """Where a tensor lies. Nothing here keeps it alive: the caller does."""
    return ctypes.c_void_p(tensor.data_ptr())
