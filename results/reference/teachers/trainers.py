"""Our training loop beside sentence-transformers' CrossEncoder trainer: the same rows, pairs seen, rate and batch size, in one run.

    pip install sentence-transformers datasets accelerate
    python results/reference/teachers/trainers.py DATA er --pairs 6400 --out trainers.jsonl

One line of JSON per trainer: pairs per second and the dev metric at the end. Each in its usual way: theirs pads a batch to its longest row
and shuffles rows; arithmetic in bfloat16 where ours uses it. Both score dev by our clock-free prediction or theirs; that is not timed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch

from dipair_lib import inference, models, training
from dipair_lib.evaluation import metrics, provenance
from dipair_lib.models.folders import locate



def ours(task: Any, data: dict[str, Any], lengths: list[int], asked: Any, device: torch.device) -> Any:
    """Seconds and dev logits of ``training.fit`` without looks at dev."""
    torch.manual_seed(0)
    model = models.CrossEncoder(asked.backbone, lengths, training.outputs_for(len(task.classes)))
    config = training.TrainConfig(
        loss="hard", learning_rate=asked.rate, pairs=asked.pairs, batch_size=32, device=device.type
    )
    begun = time.perf_counter()
    training.fit(model, data["train"], config, what="")
    inference.synchronize(device)
    return time.perf_counter() - begun, inference.predict(model, data["dev"].texts, device=device, what="")


def theirs(task: Any, data: dict[str, Any], lengths: list[int], asked: Any, device: torch.device) -> Any:
    """Seconds and dev logits of ``CrossEncoderTrainer`` at its defaults, but for rate, batch size, length and bfloat16."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, MSELoss

    model = CrossEncoder(
        locate(asked.backbone), num_labels=1, max_length=sum(lengths) - 1, device=str(device)
    )
    frame = task.train.iloc[np.random.default_rng(0).permutation(len(task.train))[: asked.pairs]]
    rows = Dataset.from_dict(
        {**{name: frame[name].tolist() for name in task.fields}, "label": frame["label"].astype(float).tolist()}
    )
    with tempfile.TemporaryDirectory() as folder:
        how = CrossEncoderTrainingArguments(
            output_dir=folder, max_steps=-(-asked.pairs // 32), per_device_train_batch_size=32, learning_rate=asked.rate,
            warmup_steps=0.1, bf16=inference.encoder_dtype("auto", device) == "bfloat16", use_cpu=device.type == "cpu",
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        loss = BinaryCrossEntropyLoss(model) if task.classes else MSELoss(model)
        trainer = CrossEncoderTrainer(model=model, args=how, train_dataset=rows, loss=loss)
        begun = time.perf_counter()
        trainer.train()
        inference.synchronize(device)
        seconds = time.perf_counter() - begun
    pairs = list(zip(*(task.dev[name] for name in task.fields), strict=True))
    logits = model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    return seconds, np.asarray(logits, np.float32).reshape(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("set", choices=[name for name in measure.SETS if name != "sst2"])
    parser.add_argument("--pairs", type=int, default=6_400)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--backbone", default=models.EMBEDDED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("trainers.jsonl"))
    asked = parser.parse_args()
    device = inference.device_of(asked.device)
    with tempfile.TemporaryDirectory() as folder:
        task = measure.load(asked.data, asked.set, Path(folder))
        lengths = training.choose_read_lengths(task, asked.backbone)
        data = training.read_splits(task, asked.backbone, lengths)
        for name, train in (("ours", ours), ("sentence-transformers", theirs)):
            seconds, logits = train(task, data, lengths, asked, device)
            found = metrics.evaluate(task.metrics[:1], data["dev"].labels, logits, data["dev"].groups)
            line = {"set": asked.set, "trainer": name, "device": provenance.device_name(), "pairs": asked.pairs,
                    "pairs_per_s": round(asked.pairs / seconds, 1), "metric": task.metrics[0], "dev": found[task.metrics[0]]}  # fmt: skip
            print(json.dumps(line), flush=True)
            with asked.out.open("a", encoding="utf8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
