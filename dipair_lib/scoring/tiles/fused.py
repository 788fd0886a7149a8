"""The FFNN head's tile as one GPU kernel (Triton). Imported only by ``gpu``, where it can run."""

import triton
import triton.language as tl


@triton.jit
def ffnn(
    left, right, weight, bias, last, shift, start, thresholds, out, found, count, room, m, n,
    HIDDEN: tl.constexpr, OUTER: tl.constexpr, ROWS: tl.constexpr, LINES: tl.constexpr,
    SUMS: tl.constexpr, FACTORS: tl.constexpr, START: tl.constexpr, CHOOSE: tl.constexpr,
):  # fmt: skip
    """Scores of LINES left texts with ROWS right ones: ``relu(relu(left + right) @ weight + bias) @ last +
    shift (+ start)``.

    The right texts and the second layer's weights stay on the chip while the left texts pass one by one;
    activations never leave it. NaN passes through both ReLUs.

    Args:
        left, right: the first layer's shares, bfloat16 [m, HIDDEN] and [n, HIDDEN].
        weight: bfloat16 [HIDDEN, OUTER].
        bias, last: float32 [OUTER].
        start: float32 [m, n], read if START.
        out: float32; [m, n] scores, or if CHOOSE the ``room`` scores of at least ``thresholds`` (float32 [m])
            or not finite, in no order.
        found, count: if CHOOSE their places, int64 [room] of left << 32 | right, and how many there are,
            int32 [1]: may exceed ``room``.
        SUMS, FACTORS: dtype of the first sum and of the product's factors; bfloat16, but float32 in Triton's
            interpreter, whose NumPy has no bfloat16 (the activations are shortened to it all the same).
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    h = tl.arange(0, HIDDEN)
    o = tl.arange(0, OUTER)
    b = tl.load(right + row[:, None] * HIDDEN + h[None, :], mask=inside[:, None], other=0.0).to(SUMS)
    w = tl.load(weight + h[:, None] * OUTER + o[None, :]).to(FACTORS)
    biases = tl.load(bias + o)
    lasts = tl.load(last + o)
    first = tl.program_id(1).to(tl.int64) * LINES
    for i in range(first, tl.minimum(first + LINES, m)):
        a = tl.load(left + i * HIDDEN + h).to(SUMS)
        x = tl.maximum(b + a[None, :], 0.0, propagate_nan=tl.PropagateNan.ALL).to(tl.bfloat16).to(FACTORS)
        y = tl.dot(x, w, input_precision="ieee") + biases[None, :]
        y = tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)
        score = tl.sum(y * lasts[None, :], axis=1) + shift
        if START:
            score += tl.load(start + i * n + row, mask=inside, other=0.0)
        if CHOOSE:
            finite = tl.abs(score) < float("inf")  # false for NaN
            keep = inside & ((score >= tl.load(thresholds + i)) | (finite == 0))
            at = tl.atomic_add(count + tl.zeros_like(row), 1, mask=keep, sem="relaxed")
            fits = keep & (at < room)
            tl.store(found + at, (i << 32) | row, mask=fits)
            tl.store(out + at, score, mask=fits)
        else:
            tl.store(out + i * n + row, score, mask=inside)
