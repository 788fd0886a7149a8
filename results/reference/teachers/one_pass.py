"""What of the start made one pass at 1e-4 fail: the table "one pass" of the README beside this file.

    python results/reference/teachers/one_pass.py DATA --set er --seeds 2 --out choices.jsonl

One line of JSON per training: the dev metric after each quarter of one pass over the training rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measure
import torch

from dipair_lib import models, training
from dipair_lib.evaluation import provenance
from dipair_lib.training import step


VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "output from zero": {"from_zero": True},
    "warm-up three times as long": {"warmup": 0.3},
    "5e-5": {"learning_rate": 5e-5},
}


@contextmanager
def output_from_zero(wanted: bool) -> Iterator[None]:
    """Within it a training's output does not start at the shares of the classes, as it did before."""
    kept = step.start_bias
    if wanted:
        step.start_bias = lambda *_, **__: None  # type: ignore[assignment]
    try:
        yield
    finally:
        step.start_bias = kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", choices=measure.SETS, default="er")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--backbone", default=models.EMBEDDED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("choices.jsonl"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        task = measure.load(asked.data, asked.set, Path(folder))
        lengths = training.choose_read_lengths(task, asked.backbone)
        data = training.read_splits(task, asked.backbone, lengths)
        for seed in range(asked.seeds):
            for what, changed in VARIANTS.items():
                how = {"learning_rate": 1e-4, "epochs": 1, "looks": 4, **changed}
                zero = bool(how.pop("from_zero", False))
                config = training.TrainConfig(loss="hard", seed=seed, device=asked.device, **how)
                torch.manual_seed(seed)
                model = models.CrossEncoder(asked.backbone, lengths, training.outputs_for(len(task.classes)))
                with output_from_zero(zero):
                    fitted = training.fit(
                        model, data["train"], config, what="", dev=data["dev"], metric=task.metrics[0]
                    )
                line = {"set": asked.set, "what": f"one pass: {what}", "seed": seed, "rate": config.learning_rate, "passes": 1,
                        "dev_by_quarter": [round(value, 4) for value in fitted.dev], "device": provenance.device_name()}  # fmt: skip
                print(json.dumps(line), flush=True)
                with asked.out.open("a", encoding="utf8") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
