"""Quality of the papers' students against teacher-scored pairs seen: the comparison in earnest, on one accelerator.

    python results/reference/dipair2020/budgets.py pydocs --pairs 5000000 --out pydocs.jsonl
    python results/reference/dipair2020/budgets.py home_depot/train.tsv.gz --fields search_term product_title --label relevance \
        --group search_term --pairs 5000000 --out home_depot.jsonl

A teacher by the default recipe scores tiles of near pairs that it has not seen; every student then sees that many of them and of the
labelled rows, in one stage after the cosine start (`--cosine-pairs 0`: without) and stage 1. One line of JSON per student and seed: the dev
metric at each look with the pairs seen there, test quality with its interval, whether dev was still rising. A line that --out holds already
is not made again, so a lease that ends is gone on with.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipair_lib import inference, models, training
from dipair_lib.data import loading, pair_tiles
from dipair_lib.evaluation import bootstrap, provenance
from dipair_lib.models import EMBEDDED


MEAN = {"keep": [0], "pooled": True, "projection": [0]}
OURS = {"pooled": True, "residual": "cosine"}
STUDENTS: dict[str, dict[str, Any]] = {
    "DE-Cos": {"head": "cosine", **MEAN},
    "DiPair-FFNN k=8": {"head": "ffnn", "keep": [8], "hidden": [512, 256]},
    "DiPair-FFNN k=16": {"head": "ffnn", "keep": [16], "hidden": [512, 256]},
    "DiPair-TSF k=8": {"head": "transformer", "keep": [8]},
    "DiPair-TSF k=16": {"head": "transformer", "keep": [16]},
    "FFNN k=8 + mean + cosine": {"head": "ffnn", "keep": [8], **OURS},
    "cosine + MaxSim k=32": {"head": "cosine+maxsim", "keep": [32], "pooled": True},
}
USUAL: dict[str, Any] = {
    "keep": [8], "pooled": False, "projection": [128], "hidden": (256, 128), "head_layers": 1, "head_ffn": 256, "residual": "",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", help="pydocs, or a file or folder of pairs")
    for name, how in {"fields": {"nargs": 2}, "label": {}, "group": {}}.items():
        parser.add_argument(f"--{name}", default="" if name != "fields" else (), **how)  # type: ignore[arg-type]
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS), metavar="NAME")
    parser.add_argument("--pairs", type=int, default=5_000_000, help="seen by each student in stage 2")
    parser.add_argument("--pool", type=int, default=1_000_000, help="near pairs that the teacher scores")
    parser.add_argument("--cosine-pairs", type=int, default=1_000_000)
    parser.add_argument("--looks", type=int, default=20, help="at dev, over the whole of stage 2")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--max-train", type=int, default=0)
    parser.add_argument("--backbone", default=EMBEDDED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, default=Path("budgets"), help="for the teacher and outputs")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    done = {json.loads(line)["what"] for line in lines_of(asked.out)}

    def say(what: str, **found: Any) -> None:
        line = json.dumps({"what": what, "device": provenance.device_name(), **found})
        print(line, flush=True)
        with asked.out.open("a", encoding="utf8") as file:
            file.write(line + "\n")

    task = loading.load_task(
        asked.task, fields=asked.fields, label=asked.label, group=asked.group, max_train=asked.max_train
    )
    lengths = training.choose_read_lengths(task, asked.backbone)
    data = training.read_splits(task, asked.backbone, lengths)
    teacher = teacher_of(task, data, lengths, asked, say if "teacher" not in done else None)
    rows = scored_rows(task, data, lengths, teacher, asked)
    taught = training.replace(
        data["dev"], teacher=inference.predict(teacher, data["dev"].texts, device=asked.device)
    )
    for seed in range(asked.seeds):
        for name in asked.students:
            if f"{name}, seed {seed}" not in done:
                say(
                    f"{name}, seed {seed}",
                    **one_student(task, rows, taught, data["test"], lengths, name, seed, asked),
                )


def lines_of(path: Path) -> list[str]:
    """Lines that were written before."""
    return path.read_text("utf8").splitlines() if path.exists() else []


def teacher_of(task: Any, data: dict[str, Any], lengths: list[int], asked: Any, say: Any) -> Any:
    """The teacher by the default recipe, once; `say` is None where its line is written already."""
    kept = asked.folder / "model"
    if not kept.exists():
        config = training.teacher_config(len(data["train"].labels), asked.device)

        def build() -> Any:
            torch.manual_seed(0)
            return models.CrossEncoder(asked.backbone, lengths, training.outputs_for(len(task.classes)))

        model, _ = training.train_best(
            build, data["train"], data["dev"], task.metrics[0], config, training.RATES, what="teacher"
        )
        models.save(model, kept)
    model = models.load(kept)
    if say:
        logits = inference.predict(model, data["test"].texts, device=asked.device)
        say("teacher", **tested(task, logits))
    return model


def scored_rows(task: Any, data: dict[str, Any], lengths: list[int], teacher: Any, asked: Any) -> Any:
    """The labelled rows and the tiles of near pairs, with the teacher's logits of both."""
    texts = data["train"].texts
    vectors = inference.text_vectors(
        asked.backbone, lengths, texts, asked.folder / "encoded", device=asked.device
    )
    more = pair_tiles.tiles(texts.distinct, vectors, task.fields, asked.pool)
    logits = inference.predict(teacher, texts, device=asked.device, what="teacher on the labelled rows")
    unscored = training.read_rows(task, more.assign(label=0), asked.backbone, lengths)
    made = inference.predict(
        teacher, unscored.texts, device=asked.device, what="teacher on pairs it has not seen"
    )
    frame, both = training.with_synthetic(task.train, logits, more, made)
    return training.read_rows(task, frame, asked.backbone, lengths, both)


def one_student(
    task: Any, rows: Any, dev: Any, test: Any, lengths: list[int], name: str, seed: int, asked: Any
) -> dict[str, Any]:
    """Train and test one student: cosine start and stage 1 on stored outputs, then one stage of `--pairs`."""
    torch.manual_seed(seed)
    outputs = training.outputs_for(len(task.classes))
    model = models.DualEncoder(
        asked.backbone, read_lengths=lengths, outputs=outputs, **{**USUAL, **STUDENTS[name]}
    )
    plan = training.TrainConfig(device=asked.device, seed=seed)
    first = training.replace(plan, learning_rate=1e-3, batch_size=256, pairs=min(asked.pairs, 500_000))
    second = training.replace(
        plan, learning_rate=1e-4, head_rate=1e-3, batch_size=asked.batch_size, pairs=asked.pairs,
        looks=asked.looks * len(rows.labels) / asked.pairs,
    )  # fmt: skip
    begun = time.perf_counter()
    one, two, _ = training.fit_stages(
        model, rows, first, second, asked.folder / "encoded", seed=seed, dev=dev, metric=task.metrics[0],
        cosine_pairs=asked.cosine_pairs, what=f"{name}, seed {seed},",
    )  # fmt: skip
    assert one and two
    seen = np.linspace(two.pairs / max(1, len(two.dev)), two.pairs, len(two.dev)).round().astype(int)
    curve = [[int(pairs), round(value, 5)] for pairs, value in zip(seen, two.dev, strict=True)]
    logits = inference.predict(model, test.texts, device=asked.device)
    return {
        "student": name, "seed": seed, "pairs": two.pairs, "best_at": two.best_at, "rising": two.rising, "stage1_dev": max(one.dev),
        "curve": curve, "seconds": round(time.perf_counter() - begun, 1), **tested(task, logits),
    }  # fmt: skip


def tested(task: Any, logits: np.ndarray) -> dict[str, Any]:
    """The headline metric on test, with its interval over groups."""
    found = bootstrap.row_fields(task, logits, n_boot=300)
    return {name: found[name] for name in ("metric", "quality", "quality_low", "quality_high")}


if __name__ == "__main__":
    main()
