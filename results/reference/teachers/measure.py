"""The teacher of a first run beside its baselines and plain textbook fine-tuning, on the sets named below, several seeds.

    python results/reference/teachers/measure.py DATA er wikiqa mrpc --seeds 3 --out rows.jsonl

DATA holds the sets in folders of these names (see ``SETS``; their terms forbid passing them on). One line of JSON per training.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dipair_lib import inference, models, training
from dipair_lib.data import loading, task
from dipair_lib.evaluation import bootstrap, metrics, provenance

SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "er": ("er_amazon_google", {"fields": ("left", "right"), "label": "label", "group": "left"}),
    "wikiqa": ("wikiqa", {"fields": ("question", "sentence"), "label": "label", "group": "question"}),
    "mrpc": ("mrpc", {"fields": ("sentence1", "sentence2"), "label": "label"}),
    "stsb": ("stsb", {"fields": ("sentence1", "sentence2"), "label": "score"}),
    "qqp": ("qqp", {"fields": ("question1", "question2"), "label": "is_duplicate"}),
    "home_depot": (
        "home_depot/train.tsv.gz",
        {"fields": ("search_term", "product_title"), "label": "relevance", "group": "search_term"},
    ),
    "trec_dl": ("q2p_trec_dl", {"fields": ("query", "passage"), "label": "label", "group": "qid"}),
    "sst2": ("glue/SST-2", {"fields": ("sentence",), "label": "label"}),
}


def load(root: Path, name: str, folder: Path) -> task.Task:
    """A set's task. QQP comes without train rows: its dev file is what is learned from; of TREC DL only the judged rows are read."""
    path, how = SETS[name]
    if name == "qqp":
        for split, file in (("train", "dev"), ("test", "test")):
            os.symlink((root / path / f"{file}.tsv.gz").resolve(), folder / f"{split}.tsv.gz")
        return loading.load_task(folder, **how)
    if name in {"trec_dl", "sst2"}:
        for file in (root / path).iterdir():
            if file.name.split(".")[0] in {"train", "dev", "test"}:
                os.symlink(file.resolve(), folder / file.name)
        return loading.load_task(folder, **how)
    return loading.load_task(root / path, **how)


def textbook(
    task: task.Task, lengths: list[int], data: dict[str, training.Data], backbone: str, device: torch.device,
    seed: int, epochs: int = 3, rate: float = 5e-5, batch_size: int = 32,
) -> tuple[Any, float, float]:  # fmt: skip
    """Plain fine-tuning, written apart from the library: AdamW, warm-up and linear decay, dropout 0.1, all weights, shuffled rows, bfloat16
    autocast where the device gains by it, the best of three epochs by dev.

    Returns:
        The network, its dev metric, pairs per second.
    """
    torch.manual_seed(seed)
    model: Any = models.CrossEncoder(backbone, lengths, training.outputs_for(len(task.classes)))
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    if device.type == "cuda":
        model.encoder.set_attn_implementation("sdpa")
    model.to(device)
    rows, random = data["train"], np.random.default_rng(seed)
    labels = torch.from_numpy(np.asarray(rows.labels)).to(device)
    steps = epochs * math.ceil(len(labels) / batch_size)
    warm = max(1, steps // 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, max(0.0, (steps - s) / (steps - warm)))
    )
    best, kept, begun = -np.inf, None, time.perf_counter()
    short = inference.encoder_dtype("auto", device) == "bfloat16"
    for _ in range(epochs):
        model.train()
        for part in np.array_split(random.permutation(len(labels)), steps // epochs):
            batch = [tensor.to(device) for tensor in model.batch(rows.texts, part)]
            with torch.autocast(device.type, torch.bfloat16, enabled=short):
                logits = model(*batch)
            logits, wanted = logits.float(), labels[part]
            if not task.classes:
                loss = F.mse_loss(logits[:, 0], wanted.float())
            elif len(task.classes) == 2:
                loss = F.binary_cross_entropy_with_logits(logits[:, 0], wanted.float())
            else:
                loss = F.cross_entropy(logits, wanted)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        found = metric_of(task, data["dev"], model.eval(), device)
        if found > best:
            best, kept = found, {name: weight.clone() for name, weight in model.state_dict().items()}
    rate_seen = epochs * len(labels) / (time.perf_counter() - begun)
    model.load_state_dict(kept)
    return model, best, rate_seen


def metric_of(task: task.Task, data: training.Data, model: Any, device: torch.device) -> float:
    """The headline metric of a split."""
    logits = inference.predict(model, data.texts, device=device, what="")
    return metrics.evaluate(task.metrics[:1], data.labels, logits)[task.metrics[0]] or 0.0


def tested(
    task: task.Task, data: dict[str, training.Data], model: Any, device: torch.device
) -> dict[str, Any]:
    """The headline metric on test with its interval, and the other metrics."""
    logits = inference.predict(model, data["test"].texts, device=device, what="")
    found = bootstrap.row_fields(task, logits, n_boot=300)
    kept = ("metric", "quality", "quality_low", "quality_high", "metrics")
    return {name: found[name] for name in kept}


def measure(
    root: Path, name: str, backbone: str, device: torch.device, seeds: range, times: float, say: Any
) -> None:
    """Floors once, then of each seed ours and the textbook's."""
    with tempfile.TemporaryDirectory() as folder:
        task = load(root, name, Path(folder))
        lengths = training.choose_read_lengths(task, backbone)
        data = training.read_splits(task, backbone, lengths)
        about = {
            "set": name,
            "rows": [len(part.labels) for part in data.values()],
            "device": provenance.device_name(),
        }
        baselines = training.baselines(task, data["train"], backbone, lengths, Path(folder) / "encoded")
        for what, model in baselines.items() if 0 in seeds else ():
            say({**about, "row": what, **tested(task, data, model, device)})
        metric = task.metrics[0]
        floor = training.dev_floor(baselines, data["dev"], metric)
        for seed in seeds:

            def build(seed: int = seed) -> Any:
                torch.manual_seed(seed)
                return models.CrossEncoder(backbone, lengths, training.outputs_for(len(task.classes)))

            config = training.teacher_config(len(data["train"].labels), device, times, seed=seed)
            model, found = training.train_best(
                build, data["train"], data["dev"], metric, config, training.RATES, floor=floor, what=""
            )
            fit = found.fitted
            say(
                {
                    **about, "row": "teacher", "seed": seed, "rate": fit.learning_rate, "tried": found.tried, "pairs": fit.pairs,
                    "best_at": fit.best_at, "rising": fit.rising, "seconds": fit.seconds, "notes": fit.notes,
                    **tested(task, data, model, device),
                }
            )  # fmt: skip
            model, dev, speed = textbook(task, lengths, data, backbone, device, seed)
            say(
                {
                    **about,
                    "row": "textbook",
                    "seed": seed,
                    "dev": dev,
                    "pairs_per_s": speed,
                    **tested(task, data, model, device),
                }
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of the sets")
    parser.add_argument("sets", nargs="+", choices=SETS)
    parser.add_argument("--backbone", default=models.EMBEDDED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=1.0, help="times the default pairs")
    parser.add_argument("--out", type=Path, default=Path("teachers.jsonl"))
    asked = parser.parse_args()

    def say(line: dict[str, Any]) -> None:
        text = json.dumps(line)
        print(text, flush=True)
        with asked.out.open("a", encoding="utf8") as file:
            file.write(text + "\n")

    seeds, device = range(asked.first_seed, asked.first_seed + asked.seeds), inference.device_of(asked.device)
    for name in asked.sets:
        measure(asked.data, name, asked.backbone, device, seeds, asked.budget, say)


if __name__ == "__main__":
    main()
