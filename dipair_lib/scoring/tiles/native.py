"""Tiles of the heads as compiled code (``tiles.cpp``), on processors that multiply bfloat16 in tiles (AMX) or
in vectors (AVX512_BF16), and where a compiler is.

There is code for the FFNN head, MaxSim, the transformer head of one layer, and the BiLSTM's comparison. It is
compiled once per machine, into the cache folder, in some seconds. Elsewhere, for other heads, or with
``DIPAIR_NATIVE=0``, torch computes the same. The cosine stays torch's: its product in bfloat16 is twice as
fast, but then the best must be scored again, which costs more than that saves.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dipair_lib.models import Head, PairModel, Prepared
from dipair_lib.models.heads import (
    CompareHead,
    FFNNHead,
    SimilarityHead,
    TransformerHead,
)
from dipair_lib.models.similarities import cosine_of
from dipair_lib.scoring.tiles import compilation
from dipair_lib.scoring.tiles.layout import (
    at,
    by_head,
    columns_of,
    filled,
    packed,
    padded,
    rows_of,
    shared,
    tokens,
    up,
)

BUMPS = 2.875  # polynomials per unit of GELU's input, as in the code


class FFNNTile:
    """The scores of all pairs of two blocks of texts, by the compiled code.

    The sum of both shares, the biases and the last layer are float32, the product with the second layer is
    bfloat16 with float32 sums: off by the rounding of the first layer's activations and of the second layer's
    weights, and by nothing else.

    Args:
        head: with two hidden layers and one output.
        way: one of ``ways``, by default the fastest.
    """

    def __init__(self, head: FFNNHead, way: str = "") -> None:
        second, last = head.rest
        self.code = compilation.code("ffnn", way)
        self.hidden, self.outer = up(second.in_features), up(second.out_features)
        self.packed = packed(second.weight, self.hidden, self.outer)
        self.bias = padded(second.bias.detach()[None], self.outer)
        self.weights = padded(last.weight.detach(), self.outer)
        self.shift = float(last.bias.detach())

    def __call__(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """Shares of the first layer, float32 [m, hidden] and [n, hidden], to scores float32 [m, n], by all of
        torch's threads.
        """
        a, b = (padded(side[0], self.hidden) for side in (left, right))
        m, n = len(a), len(b)
        scores = torch.empty(m, n)

        def part(first: int, last: int) -> None:
            self.code(
                at(a), at(b[first:]), at(self.packed), at(self.bias), at(self.weights), ctypes.c_float(self.shift), m, last - first,
                self.hidden, self.outer, at(scores[:, first:]), ctypes.c_long(n),
            )  # fmt: skip

        shared(n, 1, part)
        return scores


class CompareTile:
    """The BiLSTM's comparison of two sentences; products, differences and their weights are rounded to
    bfloat16, nothing else is.

    Args:
        way: one of ``ways``, by default the fastest.
    """

    def __init__(self, head: CompareHead, way: str = "") -> None:
        assert head.both is not None
        self.code = compilation.code("compare", way)
        outer, width = len(head.both.weight), head.both.in_features // 2
        self.width, self.outer = -(-width // 16) * 16, up(outer)
        # 16 products and 16 differences by turns, as the code makes them
        weight = filled(head.both.weight.detach().unflatten(1, (2, width)), outer, 2, self.width)
        weight = weight.unflatten(2, (-1, 16)).transpose(1, 2).flatten(1)
        self.packed = packed(weight, 2 * self.width, self.outer)
        self.weights = padded(head.output.weight.detach(), self.outer)
        self.shift = float(head.output.bias.detach())

    def __call__(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """States and shares of the first layer, float32 [m, width] and [m, hidden], and of n texts, to scores
        float32 [m, n].
        """
        a, b = (padded(side[0], self.width) for side in (left, right))
        p, q = (padded(side[1], self.outer) for side in (left, right))
        m, n = len(a), len(b)
        scores = torch.empty(m, n)

        def part(first: int, last: int) -> None:
            self.code(
                at(a), at(b[first:]), at(p), at(q[first:]), at(self.packed), at(self.weights), ctypes.c_float(self.shift), m, last - first,
                self.width, self.outer, at(scores[:, first:]), ctypes.c_long(n),
            )  # fmt: skip

        shared(n, 1, part)
        return scores


class MaxSimTile:
    """MaxSim, or its weighted sum with the cosine, of all pairs of two blocks of texts; tokens are rounded to
    bfloat16, nothing else is.

    Args:
        way: one of ``ways``, by default the fastest.
    """

    def __init__(self, head: SimilarityHead, way: str = "") -> None:
        *cosine, maxsim = head.scale.detach()[0].tolist()
        self.code = compilation.code("maxsim", way)
        self.maxsim, self.cosine, self.shift = maxsim, sum(cosine), float(head.shift.detach())

    def __call__(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """What ``SimilarityHead.prepare`` gave of m and n texts, to scores float32 [m, n]."""
        (a, inside), (b, real) = left[:2], right[:2]
        m, n, wide, deep, width = (
            len(a),
            len(b),
            tokens(a.shape[1]),
            tokens(b.shape[1]),
            up(a.shape[2]),
        )
        weights = self.maxsim * inside / inside.sum(1, keepdim=True).clamp(min=1)
        weights = filled(weights[..., None], up(m), wide)[..., 0].contiguous()
        columns = columns_of(filled(a, up(m), wide, width).flatten(0, 1)[:, None])
        # What is no token of a right text is its first once more: that changes no maximum.
        spread = torch.where(real[..., None], b, b[:, :1])
        spread = torch.cat([spread, b[:, :1].expand(-1, deep - b.shape[1], -1)], dim=1)
        rows = rows_of(filled(spread, up(n), deep, width).flatten(0, 1)[:, None])
        scores = torch.empty(up(m), up(n))

        def part(first: int, last: int) -> None:
            self.code(
                at(columns), at(weights), at(rows[first * deep // 16 :]), up(m), last - first, wide, deep, width, at(scores[:, first:]),
                ctypes.c_long(up(n)),
            )  # fmt: skip

        shared(up(n), 32, part)
        found = scores[:m, :n] + self.shift
        found[:, spread.isnan().any(2).any(1)] = torch.nan  # a maximum of vectors hides it
        return (
            found.add_(cosine_of(left[2][:, None], right[2][None])[..., 0], alpha=self.cosine)
            if len(left) > 2
            else found
        )


class Layer(ctypes.Structure):
    """A transformer head's sizes, matrices and vectors as the code reads them."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("heads", "part", "width", "wide", "ffn")),
        *((name, ctypes.c_float) for name in ("scale", "epsilon", "epsilon_leave", "shift")),
        *((name, ctypes.c_void_p) for name in ("attended", "up", "down")),
        *(
            (name, ctypes.c_void_p)
            for name in ("norm_weight", "norm_bias", "up_bias", "down_bias", "w", "bump")
        ),
    ]


class TransformerTile:
    """The scores of all pairs of two blocks of texts by the transformer head of one layer.

    Bfloat16 are what matrix products of pairs read: queries and the other text's keys, and the inputs and
    weights of ``attended``, ``up`` and ``down``. All else, sums included, is float32, the exponential and
    GELU to 1e-6: off by those roundings and nothing else. What the left text's first token makes of its own
    tokens' keys is computed once per text, in float32.

    Args:
        head: of two fields, with one layer and one output.
        way: one of ``ways``, by default the fastest.
    """

    def __init__(self, head: TransformerHead, way: str = "") -> None:
        layer = head.layers[0]
        self.code = compilation.code("transformer", way)
        self.first_bias = layer.attended.bias.detach()
        width, ffn, heads = layer.attended.in_features, layer.up.out_features, layer.heads
        self.width, wide = width, up(width)
        attended = by_head(layer.attended.weight.detach(), heads).flatten(1)
        norm, leave, output = layer.before_ffn, head.leave, head.output
        self.read = {  # stay alive here: the structure knows only where they lie
            "attended": packed(attended, attended.shape[1], wide),
            "up": packed(layer.up.weight, wide, up(ffn)),
            "down": packed(layer.down.weight, up(ffn), wide),
            "norm_weight": padded(norm.weight.detach()[None], wide),
            "norm_bias": padded(norm.bias.detach()[None], wide),
            "up_bias": padded(layer.up.bias.detach()[None], up(ffn)),
            "down_bias": padded(layer.down.bias.detach()[None], wide),
            "w": padded(leave.weight.detach()[None] * output.weight.detach(), wide),
            "bump": gelu_bump(),
        }
        self.layer = Layer(
            heads=heads, part=up(width // heads), width=width, wide=wide, ffn=up(ffn), scale=(width // heads) ** -0.5,
            epsilon=norm.eps, epsilon_leave=leave.eps, shift=float(output(leave.bias).detach()),
            **{name: at(t) for name, t in self.read.items()},
        )  # fmt: skip

    def __call__(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """What ``TransformerHead.prepare`` gave of m and n texts, to scores float32 [m, n]."""
        (x, q, k, v, mask), (_, _, others, values, real) = left, right
        layer = self.layer
        m, n, one, other, deep = (
            len(x),
            len(real),
            k.shape[1],
            others.shape[1],
            tokens(others.shape[1]),
        )
        first = filled(x[:, :1] + self.first_bias, up(m), 1, layer.wide)
        queries = by_head(q[:, 0], layer.heads)
        own = torch.einsum("mhd,mthd->mht", queries, by_head(k, layer.heads)) * layer.scale
        own = filled(own.masked_fill(~mask[:, None], float("-inf")), up(m), layer.heads, one)
        own = own.unflatten(0, (-1, 32)).permute(0, 2, 3, 1).contiguous()  # 32 texts side by side
        columns = columns_of(filled(queries, up(m), layer.heads, layer.part))
        rows = rows_of(by_head(filled(others, up(n), deep, self.width), layer.heads).flatten(0, 1))
        v, values = (
            filled(
                by_head(t, layer.heads).flatten(2),
                up(len(t)),
                t.shape[1],
                layer.heads * layer.part,
            )
            for t in (v, values)
        )
        bias = torch.zeros(real.shape).masked_fill(~real, float("-inf"))
        scores = torch.empty(up(m), n)

        def part(start: int, stop: int) -> None:
            self.code(
                ctypes.byref(layer), at(first), at(columns), at(own), at(v), at(rows[start * deep // 16 :]), at(bias[start:]),
                at(values[start:]), up(m), min(stop, n) - start, one, other, deep, at(scores[:, start:]), ctypes.c_long(n),
            )  # fmt: skip

        shared(up(n), 32, part)
        return scores[:m]


@functools.cache
def gelu_bump() -> torch.Tensor:
    """Coefficients float32 [5, 16], highest degree first, of u = BUMPS * |x| - i from -1/2 to 1/2 for i = 0
    to 15: what GELU(x) lacks to max(x, 0), |x| times the share of the normal distribution beyond |x|.
    """
    u = np.cos(np.pi * (np.arange(16) + 0.5) / 16) / 2  # Chebyshev's points
    columns = []
    for i in range(16):
        x = (u + i) / BUMPS  # below 0, which no input reaches, the same curve: smooth
        share = np.array([math.erfc(value / math.sqrt(2)) / 2 for value in x])
        columns.append(np.polyfit(u, x * share, 4))
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


Compiled = FFNNTile | CompareTile | MaxSimTile | TransformerTile
# Of which heads there is code, and for which of them: always for pairs with one output.
TILES: dict[type[Head], tuple[type[Compiled], Callable[[Any], bool]]] = {
    FFNNHead: (FFNNTile, lambda head: (len(head.first), len(head.rest)) == (2, 2)),
    SimilarityHead: (MaxSimTile, lambda head: head.maxsim),
    TransformerHead: (TransformerTile, lambda head: (len(head.position), len(head.layers)) == (2, 1)),
    CompareHead: (CompareTile, lambda head: head.both is not None),
}


def tile_of(head: Head) -> type[Any] | None:
    """What computes a head for pairs with one output as compiled code; None where there is none."""
    kind, fits = TILES.get(type(head), (None, None))
    return kind if fits and fits(head) and len(head.final_bias) == 1 else None


def compiled(head: Head) -> Compiled | None:
    """A head's compiled code, with its weights."""
    kind = tile_of(head)
    return kind(head) if kind else None


def missing(model: PairModel) -> str:
    """Why a model whose head has compiled code is computed by torch here; empty otherwise. The scores are the
    same, the time is not.
    """
    return compilation.unavailable_reason() if tile_of(model.head.inner) else ""


class Tile:
    """What of a model's head has compiled code: the head itself, and the similarity that it corrects."""

    def __init__(self, head: Compiled, start: Compiled | None = None) -> None:
        self.head, self.start = head, start

    @classmethod
    def of(cls, model: PairModel) -> Tile | None:
        """None for models without, or where the code cannot run."""
        if compilation.unavailable_reason():
            return None
        inner, line = model.head.inner, model.head.line
        head = compiled(inner)
        return None if head is None else cls(head, compiled(line) if line not in {None, inner} else None)

    def __call__(self, model: PairModel, left: Prepared, right: Prepared) -> torch.Tensor:
        """Scores float32 [m, n]; a cosine that is corrected is torch's."""
        own, start = model.head.parts([left, right])
        scores = self.head(*own)
        if not start:
            return scores
        if self.start:
            return scores.add_(self.start(*start))
        one, other = tuple(t[:, None] for t in start[0]), tuple(t[None] for t in start[1])
        return scores + model.head.line.combine(one, other)[..., 0]
