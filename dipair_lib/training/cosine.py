"""The cosine start: projection and head first learn the backbone's own cosine of the whole texts. No label,
no teacher.

The outputs that a head keeps hold what is needed, but a fresh FFNN or transformer does not find the product
of two sides in some thousand rows: it overfits them. Pairs without a label are free, and on stored outputs
cheap. Neither paper has this.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from dipair_lib.inference.device import device_of, placed_on
from dipair_lib.inference.outputs import Stored, text_vectors
from dipair_lib.models import DualEncoder
from dipair_lib.models.tokens import Texts
from dipair_lib.training.frozen import cut_all, descend, head_parameters, prepared_rows
from dipair_lib.training.settings import Fitted, TrainConfig

NEAR = 50  # a near pair's right text is one of so many nearest to its left one
LEFT_TEXTS = 20_000  # left texts whose nearest are looked for: the search stays short whatever the texts
SPREAD = 2.0  # standard deviation of the targets: about a teacher's logits'


def takes_cosine_start(model: DualEncoder) -> bool:
    """Whether a head needs one: an FFNN or transformer over two fields, with one output, that corrects no
    similarity (which starts on a line of its own). An encoder at random is left without: a start that knows
    the trained backbone's cosine would answer for it.
    """
    settings = model.settings
    return (
        model.head.line is None
        and len(settings["read_lengths"]) == 2
        and settings["outputs"] == 1
        and not model.start.startswith("random")
    )


def cosine_start(
    model: DualEncoder,
    stored: Sequence[Stored],
    texts: Texts,
    folder: Path,
    pairs: int,
    *,
    seed: int = 0,
    device: str = "auto",
    what: str = "cosine start",
) -> Fitted:
    """Train projection and head, one pass over so many pairs of a task's training texts: half random ones,
    half near ones. The target is ``SPREAD`` times the z-scored cosine of the whole backbone's means, also
    where the student has fewer layers or the teacher's weights.

    Args:
        stored: of ``texts``, as ``fit_head`` takes them.
        folder: of stored outputs.
        pairs: more than 0.
        seed: of the pairs and their order.

    Returns:
        What it cost. ``pairs`` and ``passes`` are 0: the teacher has scored none of these; ``notes`` says how
        many there were.
    """
    where, there = device_of(device), placed_on(model)
    vectors = text_vectors(model.settings["backbone"], model.read_lengths, texts, folder, where)
    left, right = (torch.from_numpy(v).to(where) for v in vectors)
    index = draw_pairs(left, right, pairs, seed)
    target = SPREAD * z_scored(cosines(left, right, index))[:, None]
    kept = cut_all(model, stored, where)
    model.to(where).train()
    config = TrainConfig(learning_rate=1e-3, batch_size=256, seed=seed)

    def loss_at(rows: np.ndarray) -> torch.Tensor:
        logits = model.combine(*prepared_rows(model, kept, index[rows]))
        return F.mse_loss(logits, target[rows[0] : rows[-1] + 1])

    batches = np.split(np.arange(pairs), np.arange(config.batch_size, pairs, config.batch_size))
    seconds, loss = descend(loss_at, batches, head_parameters(model), config, where, what)
    model.to(there).eval()
    return Fitted(
        len(batches), seconds, loss, str(stored[0].hidden.dtype).removeprefix("torch."),
        device=where.type, learning_rate=config.learning_rate, notes=f"cosine start: {pairs:,} pairs",
    )  # fmt: skip


def draw_pairs(left: torch.Tensor, right: torch.Tensor, n: int, seed: int = 0) -> np.ndarray:
    """Positions of n left and right texts, int32 [n, 2], in random order: half of the pairs random, half of a
    left text and one of the ``NEAR`` right texts nearest to it.

    Args:
        left, right: unit vectors, float32 [texts, width].
    """
    random = np.random.default_rng(seed)
    near = n // 2
    lefts = random.permutation(len(left))[:LEFT_TEXTS]
    closest = nearest(left[torch.from_numpy(lefts).to(left.device)], right, min(NEAR, len(right)))
    which = random.integers(len(lefts), size=near)
    close = np.stack([lefts[which], closest[which, random.integers(closest.shape[1], size=near)]], axis=1)
    any_two = np.stack([random.integers(len(side), size=n - near) for side in (left, right)], axis=1)
    return random.permutation(np.concatenate([close, any_two]).astype(np.int32))


def nearest(left: torch.Tensor, right: torch.Tensor, n: int, scores: int = 2**25) -> np.ndarray:
    """Positions of the n right texts of highest cosine for each left one, int32 [left texts, n]; at most
    about so many scores at a time.
    """
    found = [(part @ right.T).topk(n, dim=1).indices for part in left.split(max(1, scores // len(right)))]
    return torch.cat(found).int().cpu().numpy()


def cosines(left: torch.Tensor, right: torch.Tensor, index: np.ndarray, chunk: int = 16_384) -> torch.Tensor:
    """Cosines of pairs [pairs] of unit vectors."""
    parts = torch.from_numpy(index).long().to(left.device).split(chunk)
    return torch.cat([(left[part[:, 0]] * right[part[:, 1]]).sum(1) for part in parts])


def z_scored(values: torch.Tensor) -> torch.Tensor:
    """Shifted and scaled to mean 0 and standard deviation 1."""
    return (values - values.mean()) / values.std(correction=0).clamp(min=1e-12)
