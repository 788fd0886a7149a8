"""Numbers of Tang et al. 2019 (arXiv 1903.12136) as published, each with how sure it is. Shown apart, never
compared with ours.

Quality (Table 1) becomes rows of family ``published`` beside the tasks it belongs to; it is from GLUE's
hidden test labels, ours is not. Speed (Table 2) stands in the section on architectures: seconds for the
67,350 training sentences of SST-2 on one V100, batch 512.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dipair_lib.evaluation.results import slug
from dipair_lib.evaluation.schema import Result

PAPER = "arXiv 1903.12136"
SURE = {
    "P": "read in the paper",
    "S": "second hand: read in what others write about the paper",
    "M": "from memory, not verified",
}
# Table 1, percent, one column per task and metric.
COLUMNS = (
    ("sst2", "accuracy"),
    ("qqp", "f1"),
    ("qqp", "accuracy"),
    ("mnlim", "accuracy"),
    ("mnlimm", "accuracy"),
)
TABLE_1: dict[str, tuple[str, tuple[float, ...]]] = {
    "BERT-large (teacher)": ("P", (94.9, 72.1, 89.3, 86.7, 85.9)),
    "BERT-base": ("P", (93.5, 71.2, 89.2, 84.6, 83.4)),
    "OpenAI GPT": ("P", (91.3, 70.3, 88.5, 82.1, 81.4)),
    "ELMo (the BERT paper's baseline)": ("P", (90.4, 64.8, 84.7, 76.4, 76.1)),
    "ELMo (GLUE's baseline)": ("M", (90.4, 63.1, 84.3, 74.1, 74.5)),
    "BiLSTM, distilled and augmented": ("S", (90.7, 68.2, 88.1, 73.0, 72.6)),
    "BiLSTM, hard labels": ("S", (86.7, 63.7, 86.2, 68.7, 68.3)),
}  # fmt: skip
# Which columns a task of this name (letters and digits of its last part, lower case) stands beside.
TASKS = {
    "sst2": ("sst2",),
    "qqp": ("qqp",),
    "mnli": ("mnlim", "mnlimm"),
    "mnlim": ("mnlim",),
    "mnlimatched": ("mnlim",),
    "mnlimm": ("mnlimm",),
    "mnlimismatched": ("mnlimm",),
}
NAMES = {"sst2": "SST-2", "qqp": "QQP", "mnlim": "MNLI-m", "mnlimm": "MNLI-mm"}


@dataclass(frozen=True)
class Timed:
    """A line of Table 2. Parameters are in millions; BERT's and ELMo's count their embeddings, the BiLSTM's
    does not.
    """

    parameters: float
    seconds: float
    ratio: float


TABLE_2 = {
    "BERT-large": Timed(335, 1060, 434),
    "ELMo": Timed(93.6, 36.71, 15),
    "BiLSTM 150": Timed(0.96, 2.44, 1),
}
SURE_2 = f"{PAPER}, Table 2 (ratios {SURE['P']}, seconds {SURE['M']})"


def rows(tasks: Iterable[str]) -> list[Result]:
    """Published qualities, 0 to 1, for those of these tasks that Table 1 has; each names its source and how
    sure it is.
    """
    found = []
    for task in tasks:
        wanted = TASKS.get(re.sub(r"[^a-z0-9]", "", re.split(r"[\\/]", task)[-1].lower()), ())
        for model, (mark, values) in TABLE_1.items():
            for (column, metric), value in zip(COLUMNS, values, strict=True):
                if column in wanted:
                    found.append(
                        Result(
                            run_id=f"published.{slug(f'tang2019 {task} {column} {metric} {model}')}",
                            created_utc="2019-03-28",
                            notebook="none",
                            suite="published",
                            task=task,
                            split="GLUE test",
                            model=f"{model}, {NAMES[column]}",
                            family="published",
                            metric=metric,
                            quality=round(value / 100, 4),
                            source=f"{PAPER}, Table 1 ({SURE[mark]})",
                        )
                    )
    return found
