"""What a model costs by arithmetic, not by clock: operations, parameters, bytes of what is cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from dipair_lib import models
from dipair_lib.models import BiLSTM, Constant, CrossEncoder, TfIdf
from dipair_lib.models.heads import SimilarityHead
from dipair_lib.models.tokens import Texts


def costs(model: Any, texts: Texts, sample: int = 8) -> dict[str, Any]:
    """What a model costs by arithmetic, not by clock, on some rows' own texts without padding.

    Returns:
        params_total, params_embedding (word tables), params_per_pair (those that take part in ``combine``), flops_per_text and
        flops_per_pair (multiplications and additions of matrix products, the mean of the sample), bytes_per_text (float32 ``Prepared``,
        mean over the fields). None where a model has no such part.
    """
    rows = np.linspace(0, len(texts) - 1, min(sample, len(texts))).astype(np.int64)
    if isinstance(model, Constant | TfIdf):
        return baseline_costs(model, texts)
    total = sum(p.numel() for p in model.parameters())
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    known = {"params_total": total, "params_embedding": sum(t.weight.numel() for t in tables)}
    if isinstance(model, CrossEncoder):
        flops = float(
            np.mean([count_flops(partial(model, *model.batch(texts, np.array([r])))) for r in rows])
        )
        return {
            **known,
            "params_per_pair": total,
            "flops_per_text": None,
            "flops_per_pair": flops,
            "bytes_per_text": None,
        }
    per_text, prepared = [], []
    if isinstance(model, BiLSTM):
        model.gates()  # computed once per vocabulary: not part of any text
    for number, tokens in enumerate(texts.tokens):
        which = texts.index[rows, number]
        for i in which:
            batch = tokens.take(np.array([i]))
            per_text.append(count_flops(partial(encode_and_prepare, model, batch, number)))
        with torch.no_grad():
            prepared.append(model.prepare(model.encode(*tokens.take(which), number), number))
    bytes_per_field = [sum(t[0].numel() * t.element_size() for t in p) for p in prepared]
    return {
        **known,
        "params_per_pair": params_in_combine(model, prepared),
        "flops_per_text": float(np.mean(per_text)),
        "flops_per_pair": count_flops(lambda: model.combine(*prepared)) / len(rows)
        + dot_flops(model, prepared),
        "bytes_per_text": float(np.mean(bytes_per_field)),
    }


def baseline_costs(model: Constant | TfIdf, texts: Texts) -> dict[str, Any]:
    """Costs of a baseline; a sparse vector's bytes are its stored entries (8 bytes of value, 4 of index)."""
    empty = dict.fromkeys(
        ("params_embedding", "params_per_pair", "flops_per_text", "flops_per_pair", "bytes_per_text")
    )
    if isinstance(model, Constant):
        return {**empty, "params_total": len(model.config["logits"])}
    entries = [model.prepare(t[:500]).nnz / min(500, len(t)) for t in texts.distinct]
    return {
        **empty,
        "params_total": sum(w.size for w in model.weights.values()),
        "bytes_per_text": float(np.mean(entries)) * 12,
    }


def count_flops(call: Callable[[], Any]) -> float:
    """Floating-point operations of the matrix products within a call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def encode_and_prepare(model: Any, batch: tuple[torch.Tensor, torch.Tensor], field: int) -> models.Prepared:
    """Everything that is done once per text."""
    prepared: models.Prepared = model.prepare(model.encode(*batch, field), field)
    return prepared


def dot_flops(model: Any, prepared: Sequence[models.Prepared]) -> float:
    """The cosine's dot product, which is no matrix product to the counter: 2 x width, wherever a head has one."""
    has_cosine = any(isinstance(m, SimilarityHead) and m.cosine for m in model.modules())
    return 2.0 * prepared[0][-1].shape[-1] if has_cosine else 0.0


def params_in_combine(model: Any, prepared: Sequence[models.Prepared]) -> int:
    """Parameters that get a gradient when only ``combine`` runs."""
    with torch.enable_grad():
        model.zero_grad(set_to_none=True)
        model.combine(*prepared).sum().backward()
    used = sum(p.numel() for p in model.parameters() if p.grad is not None)
    model.zero_grad(set_to_none=True)
    return used
