"""The best right texts of each left one, over tiles that come one after the other."""

from __future__ import annotations

import numpy as np
import torch

# --- the best of many -------------------------------------------------------------------------------------------------------------


class TopK:
    """The K highest scores of each left text over tiles that come one after the other; of equal scores the
    lower right text wins.

    Exact whatever the tiles: scores and places are compared as one whole number.
    """

    def __init__(self, rows: int, k: int, device: str = "cpu") -> None:
        self.keys = torch.full((rows, k), torch.iinfo(torch.int64).min, device=device)

    def add(self, scores: torch.Tensor, places: torch.Tensor) -> None:
        """Scores float32 [rows, n] of right texts at ``places``, int64 [n] or [rows, n]."""
        n, thresholds = scores.shape[1], self.thresholds()
        hits = places_of_true(scores >= thresholds[:, None])
        # The thresholds are low yet: this tile's own K-th best are better ones. What ties with the K-th stays
        # too.
        if len(hits) > 4 * self.keys.numel():
            least = scores.topk(min(self.keys.shape[1], n), dim=1).values[:, -1]
            hits = places_of_true(scores >= torch.maximum(thresholds, least)[:, None])
        at = places[hits % n] if places.dim() == 1 else places.flatten()[hits]
        self.merge(hits // n, scores.flatten()[hits], at)

    def merge(self, rows: torch.Tensor, scores: torch.Tensor, places: torch.Tensor) -> None:
        """Some pairs: left texts in rising order int64, scores float32 and places of right texts int64, each
        [pairs].
        """
        if not len(rows):
            return
        lines, line, counts = rows.unique_consecutive(return_inverse=True, return_counts=True)
        within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[line]
        keys = self.keys.new_full((len(lines), int(counts.max())), torch.iinfo(torch.int64).min)
        keys[line, within] = keys_of(scores, places)
        self.keys[lines] = torch.cat([self.keys[lines], keys], dim=1).topk(self.keys.shape[1], dim=1).values

    def thresholds(self) -> torch.Tensor:
        """Each left text's K-th best score float32 [rows], -infinity before there are K: what is lower
        changes nothing.
        """
        return score_of(self.keys.amin(1))

    def sorted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Right texts int64 and scores float32, [rows, k], best first."""
        keys = self.keys.sort(dim=1, descending=True).values
        return LAST - (keys & LAST), score_of(keys)


def places_of_true(mask: torch.Tensor) -> torch.Tensor:
    """int64 places in the flattened mask; NumPy finds them twenty times as fast as torch does."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


LAST = 0xFFFFFFFF


def keys_of(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """int64 that order as (score, then lower place first): the score's bits, made monotone, above the place
    counted from the end.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0: there is one zero
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits.long() << 32) | (LAST - places)


def score_of(keys: torch.Tensor) -> torch.Tensor:
    """The scores that ``keys_of`` packed; the lowest key is -infinity."""
    bits = (keys >> 32).int()
    scores = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores.masked_fill(keys == torch.iinfo(torch.int64).min, float("-inf"))
