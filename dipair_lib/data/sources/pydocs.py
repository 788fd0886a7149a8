"""The built-in tasks: docstrings of the installed packages of this environment and of the standard library.

Real English by thousands of people that lies on every machine after installation. Source files are parsed,
never imported. `pydocs` asks whether a passage (the prose of a docstring) belongs to a query (its summary
line); the wrong passages are near ones, one by TF-IDF and one by embedding, as a pool of two retrievers would
give them. `pydocs-fields` asks the same of three texts: the qualified name of what is documented stands
beside the query. `pydocs-topic` asks from which library a summary line is.

Built once per set of package versions and kept as Parquet with notes beside it; nothing is downloaded.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dipair_lib.data.names import SPLITS
from dipair_lib.data.sources import installed, pydocs_pairs, snapshots
from dipair_lib.data.sources.snapshots import Say

BUILD = 2  # raise when the same sources would give other pairs, so that older caches are not used
TERMS = {"terms": "under the packages' own licences"}  # as data/README.md has them

Frames = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Embedder:
    """Mean-pooled unit vectors of the embedded backbone, and the dtype it runs in."""

    tokenizer: Any
    model: Any
    dtype: str

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[n] texts -> float32 [n, 384]; at most 64 word pieces are read, batches are sorted by length."""
        import torch

        pieces = [
            ids[:63] + ids[-1:] if len(ids) > 64 else ids for ids in self.tokenizer(list(texts))["input_ids"]
        ]
        vectors = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(pieces[i]))
        with torch.inference_mode():
            for start in range(0, len(order), 64):
                batch = order[start : start + 64]
                longest = len(pieces[batch[-1]])
                ids = torch.tensor([pieces[i] + [0] * (longest - len(pieces[i])) for i in batch])
                mask = torch.tensor([[1] * len(pieces[i]) + [0] * (longest - len(pieces[i])) for i in batch])
                out = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
                mean = (out * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
                vectors[batch] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors


def embedder() -> Embedder:
    """The embedded backbone, in bfloat16 where the processor multiplies it in hardware, else in float32."""
    import torch

    from dipair_lib.models.backbone import load_backbone, load_tokenizer

    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    dtype = torch.bfloat16 if fast else torch.float32
    model: Any = load_backbone().to(dtype).eval()
    model.set_attn_implementation("sdpa")  # a third faster than eager without gradients
    return Embedder(load_tokenizer(), model, str(dtype).removeprefix("torch."))


def load_pairs(folder: Path, say: Say | None = None) -> tuple[Frames, tuple[str, ...], dict[str, Any]]:
    """Frames (query, passage, label, group) by split, classes and notes of `pydocs`, built if the cache lacks
    them.
    """
    table, notes = cached(folder, "pairs", say)
    return (
        by_split(table, ["query", "passage", "label", "group"]),
        ("0", "1"),
        notes["common"] | notes["pairs"] | TERMS,
    )


def load_fields(folder: Path, say: Say | None = None) -> tuple[Frames, tuple[str, ...], dict[str, Any]]:
    """Frames (name, summary, passage, label, group) by split, classes and notes of `pydocs-fields`: the rows
    of `pydocs`, with names.
    """
    names, notes = cached(folder, "names", say)
    table, _ = cached(folder, "pairs", say)
    table["name"] = table["group"].map(dict(zip(names["group"], names["name"], strict=True)))
    table = table.rename(columns={"query": "summary"})
    return (
        by_split(table, ["name", "summary", "passage", "label", "group"]),
        ("0", "1"),
        notes["common"] | notes["pairs"] | TERMS,
    )


def load_topics(folder: Path, say: Say | None = None) -> tuple[Frames, tuple[str, ...], dict[str, Any]]:
    """Frames (summary, label, group) by split, classes and notes of `pydocs-topic`, built if the cache lacks
    them.
    """
    table, notes = cached(folder, "topics", say)
    classes = tuple(notes["topics"]["classes"])
    table["label"] = table["label"].map({name: i for i, name in enumerate(classes)})
    table["group"] = range(len(table))
    return by_split(table, ["summary", "label", "group"]), classes, notes["common"] | notes["topics"] | TERMS


def by_split(table: pd.DataFrame, columns: list[str]) -> Frames:
    return {split: table.loc[table["split"] == split, columns].reset_index(drop=True) for split in SPLITS}


def cached(folder: Path, which: str, say: Say | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One of the three tables and the notes, from the cache of these package versions; builds all under a
    lock.
    """
    from dipair_lib.models.folders import EMBEDDED_SHA256

    dists = installed.environment()
    versions = {name: dist.version for name, dist in dists.items()} | {
        installed.STDLIB: platform.python_version()
    }
    key = installed.hash_of(json.dumps([BUILD, sorted(versions.items()), EMBEDDED_SHA256]))[:10]
    tell = say or (lambda line: None)

    def anew() -> None:
        if list(folder.glob("pydocs-*.json")):
            tell("pydocs: the cache was made from other package versions or is damaged, building again")
        build(folder, key, dists, versions, tell)

    return snapshots.snapshot(folder, "pydocs", key, which, anew, "cached")


def build(
    folder: Path,
    key: str,
    dists: dict[str, importlib.metadata.Distribution],
    versions: dict[str, str],
    say: Say,
    stdlib: str | None = None,
    embed: Callable[[Sequence[str]], np.ndarray] | None = None,
) -> None:
    """Read, clean, deduplicate, pair; write pairs, names, topics and, last, the notes that make them valid."""
    started = time.perf_counter()
    files = installed.sources(dists, stdlib)
    say(
        f"pydocs: reading the docstrings of {len(files)} source files of {len(dists) + 1} packages (once, about a minute)"
    )
    read, dropped = installed.read_files(files)
    items = pydocs_pairs.distinct(read, dropped)
    seconds_read = time.perf_counter() - started
    say(f"pydocs: {len(items)} summaries with passages, looking for near passages as negatives")
    embed = embed or embedder()
    tables = {"pairs": pydocs_pairs.pairs(items, embed), "names": pydocs_pairs.names(items)}
    tables["topics"], topic_notes = pydocs_pairs.topics(items)
    counts = Counter(item.package for item in items)
    common = {
        "source": "docstrings of installed packages and the standard library",
        "items": len(items),
        "items_by_split": dict(Counter(pydocs_pairs.split_of(item.module) for item in items)),
        "packages": {name: [versions[name], n] for name, n in sorted(counts.items())},
        "files": len(files),
        "dropped": dict(sorted(dropped.items())),
        "embedding": {"model": "all-MiniLM-L6-v2", "dtype": getattr(embed, "dtype", "float32")},
        "build": BUILD,
        "seconds_reading": round(seconds_read, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    notes: dict[str, Any] = {
        "common": common,
        "pairs": {
            "negatives": "one of the 20 nearest by TF-IDF, one of the 20 nearest by embedding, same tenth of the modules"
        },
        "topics": topic_notes,
    }
    snapshots.write(folder, "pydocs", key, tables, notes)
    say(
        f"pydocs: {len(items)} queries, {len(tables['pairs'])} pairs, {common['seconds']} s, kept in {folder}"
    )
