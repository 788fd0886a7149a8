"""The architectures of the papers' speed tables, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import BertConfig, OpenAIGPTConfig

from dipair_lib.models import BiLSTM, CrossEncoder, costs
from dipair_lib.models.cross_encoder import mean_of
from dipair_lib.models.elmo import ELMo
from dipair_lib.models.lstm_ways import head, packed_states, vectors_of
from dipair_lib.reporting import published

VOCABULARY = 15_000  # words of SST-2
# Words of an SST-2 training phrase, of its longest, word pieces per word.
MEAN, LONGEST, PIECES = 9.4, 52, 1.2
SIZES: dict[str, Callable[[], Any]] = {
    "BERT-large": lambda: BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "BERT-base": BertConfig,
    "OpenAI GPT": OpenAIGPTConfig,
    "ELMo": lambda: None,
    "BiLSTM 300": lambda: {"hidden": 300, "fc": 400},
    "BiLSTM 150": lambda: {"hidden": 150, "fc": 200},
}
Batch = tuple[torch.Tensor, torch.Tensor]
System = CrossEncoder | ELMo | BiLSTM


def build(name: str, size: Any = None) -> System:
    """A system of the paper with random weights, in float32 and evaluation mode.

    Args:
        name: one of ``SIZES``.
        size: in place of the paper's: a transformers config, or a dict of arguments for ELMo and BiLSTM.
    """
    if name not in SIZES:
        raise ValueError(f"systems: expected some of {', '.join(SIZES)}, but got {name!r}")
    size = size or SIZES[name]()
    model: System
    if name == "ELMo":
        model = ELMo(**(size or {}))
    elif name.startswith("BiLSTM"):
        words = [f"w{i}" for i in range(size.pop("words", VOCABULARY))]
        model = BiLSTM(words, (LONGEST,), outputs=2, **size)
    else:
        model = CrossEncoder(backbone_config=size.to_dict(), outputs=2)
    return model.eval().requires_grad_(False)


def lengths_like_sst2(n: int) -> np.ndarray:
    """int64 [n], longest first: words per sentence, the geometric distribution with mean 9.4 cut at 52.

    Quantiles, not draws: every n has the same distribution, that of SST-2's 67,350 training phrases (theirs:
    1, 3, 7, 13, 21, 26 words at 5, 25, 50, 75, 90, 95 %; here 1, 3, 7, 13, 21, 27).
    """
    share = (np.arange(n) + 0.5) / n
    words = np.ceil(np.log1p(-share) / np.log1p(-1 / MEAN))
    return np.clip(words, 1, LONGEST).astype(np.int64)[::-1].copy()


def zipf(generator: torch.Generator, vocabulary: int, shape: tuple[int, ...]) -> torch.Tensor:
    """int64 ids under ``vocabulary``, the first ones the most frequent, about as words are."""
    return (vocabulary ** torch.rand(shape, generator=generator)).long() % vocabulary


def batches_of(model: System, lengths: np.ndarray, batch_size: int) -> list[Batch]:
    """ids [n, tokens] (ELMo: characters [n, words, 50]) and mask of sentences of these lengths, longest
    first.

    A batch holds at most ``batch_size`` sentences, and at most an eighth of all tokens, so that little of it
    is padding. ELMo computes no padding and reads large weights at every step: its batches are full.
    """
    if isinstance(model, CrossEncoder):
        ends = 2 * (model.encoder.config.model_type == "bert")  # [CLS] and [SEP]
        lengths = np.rint(PIECES * lengths).astype(np.int64) + ends
    generator = torch.Generator().manual_seed(0)
    found: list[Batch] = []
    start = 0
    while start < len(lengths):
        width = int(lengths[start])
        n = batch_size if isinstance(model, ELMo) else int(np.clip(lengths.sum() / 8 // width, 1, batch_size))
        mask = torch.arange(width)[None, :] < torch.from_numpy(lengths[start : start + n])[:, None]
        if isinstance(model, ELMo):
            ids = torch.randint(1, ELMo.CHARACTERS, (*mask.shape, 50), generator=generator)
        elif isinstance(model, BiLSTM):
            ids = 2 + zipf(generator, len(model.settings["words"]), tuple(mask.shape))
        else:
            ids = zipf(generator, model.encoder.config.vocab_size, tuple(mask.shape))
        found.append((ids, mask))
        start += n
    return found


def look_up(model: System, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What a system fetches for each word on its own: vectors, of ELMo the character network's, of the BiLSTM
    on a CPU its gates.
    """
    if isinstance(model, ELMo):
        return model.look_up(ids, mask)
    if isinstance(model, BiLSTM):
        return model.look_up(ids, mask) if ids.device.type == "cpu" else vectors_of(model, ids)
    return model.encoder.get_input_embeddings()(ids)  # type: ignore[no-any-return]


def rest(model: System, looked_up: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The logits [n, 2] from what was looked up."""
    if isinstance(model, ELMo):
        return model.read(looked_up, mask)
    if isinstance(model, BiLSTM):
        if looked_up.device.type == "cpu":
            return head(model, model.states(looked_up, mask.sum(1)))
        return head(model, packed_states(model, looked_up, mask.sum(1)))
    hidden = model.encoder(inputs_embeds=looked_up, attention_mask=mask).last_hidden_state
    return model.output(mean_of(hidden, mask))  # type: ignore[no-any-return]


def whole(model: System, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The logits [n, 2] from ids."""
    return rest(model, look_up(model, ids, mask), mask)


def parameters_of(model: System) -> tuple[int, int]:
    """All parameters, and those of them that only ``look_up`` reads (with a transformer's positions and
    types).
    """
    tables: list[Any]
    if isinstance(model, ELMo):
        tables = model.look_up_parameters()
    else:
        tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in tables)


def count_parameters(systems: Sequence[str] = tuple(SIZES)) -> pd.DataFrame:
    """Parameters of systems, in all and without those of the look-up; no weight is made."""
    lines = []
    for name in systems:
        with torch.device("meta"):
            total, tables = parameters_of(build(name))
        paper = published.TABLE_2.get(name)
        stated = f"{paper.parameters:g} M" if paper else "–"
        lines.append(
            {"system": name, "parameters": total, "without look-up": total - tables, "published": stated}
        )
    return pd.DataFrame(lines)


def flops_of(model: System) -> tuple[float, float]:
    """FLOPs per sentence of matrix products, whole and without look-up: mean of 8 sentences of the
    distribution, without padding.
    """
    counts = []
    for length in lengths_like_sst2(8):
        ids, mask = batches_of(model, np.array([length]), 1)[0]
        found = look_up(model, ids, mask)
        counts.append(
            (
                costs.count_flops(partial(whole, model, ids, mask)),
                costs.count_flops(partial(rest, model, found, mask)),
            )
        )
    everything, without = np.mean(counts, axis=0).tolist()
    return everything, without
