"""One HTML file from the rows of a results folder: the answer first, then pictures, tables, method, data,
environment.

No script and no address from outside: figures are inline SVG whose points carry ``<title>`` children, so that
hovering and screen readers work without JavaScript. Everything that came from data or files is escaped by the
template. Computes no result of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from dipair_lib.evaluation import architecture_rows
from dipair_lib.reporting import (
    agreement,
    architecture_table,
    caveats,
    comparison,
    criteria,
    derived,
    guard,
    overview,
    published,
    report_compared,
    report_details,
    selection,
    wording,
)
from dipair_lib.reporting.figures import inline, tradeoff
from dipair_lib.reporting.studies import ablation, ablation_figure, study, study_figure, target
from dipair_lib.system import disk

FIGURES = {
    "quality_speed": (
        "Quality against speed",
        "Right is faster, up is better. Bars are 95 % intervals of quality and quartiles of the clock; the line joins the models that no "
        "other beats on both. The teacher's band is its own interval: within it a student is as good as the teacher.",
    ),
    "kept": (
        "What the number of kept tokens brings",
        "One line per head. The contrast is the teacher itself, retrained to read only its first word pieces, [CLS] and [SEP] counted; of "
        "kept outputs the first is [CLS]'s, and [SEP]'s is among them only where a text is short. DiPair's claim is that "
        "truncating what the encoder hands on loses less than truncating what is read, at a far lower price per pair: see whether it "
        "holds here.",
    ),
    "price": (
        "What a text costs once, what a pair costs each time",
        "A student pays once per text and caches the result; a cross-encoder pays everything per pair. Logarithmic bars. Of many models: "
        "those that nothing beats on quality and speed, and the best of each head; the table has all.",
    ),
}
COLUMNS = {  # the text table under each figure; names as in overview.table
    "quality_speed": [
        "model",
        "quality",
        "of the teacher",
        "gap closed",
        overview.CACHED,
        "speed-up, same dtype",
        "remarks",
    ],
    "kept": ["model", "tokens kept", "tokens read", "quality", overview.CACHED],
    "price": ["model", "once per text", "per pair", "cache per text", "parameters", "FLOP per pair"],
}
SIZE_LIMIT = 2_000_000


def write(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a results folder.

    Args:
        folder: with ``rows/`` or a ``rows.jsonl``.
        out: the file; ``folder/report.html`` if not given. Written to a temporary name, then renamed.

    Raises:
        ResultError: the folder holds no readable row.
    """
    side = comparison.opened(folder)
    return store(html([part(side)]), Path(out) if out else side.folder / "report.html")


def compare(folders: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write one report of several results folders: what is chosen in each, same models compared with the
    first folder's, then each folder's sections (left out where the page would be too large).

    Args:
        out: the file; ``comparison.html`` in the folder that holds them all if not given.

    Raises:
        ResultError: a folder holds no readable row, or is named twice.
    """
    paths = [Path(folder) for folder in folders]
    sides = [
        comparison.opened(path, name) for path, name in zip(paths, comparison.names_of(paths), strict=True)
    ]
    against = report_compared.compared(sides)
    parts = [part(side) for side in sides]
    page = html(parts, against)
    if len(page.encode("utf8")) > SIZE_LIMIT:
        page = html([{**one, "tasks": [], "architectures": None, "left_out": True} for one in parts], against)
    common = Path(os.path.commonpath([path.resolve() for path in paths]))
    return store(page, Path(out) if out else common / "comparison.html")


def store(page: str, path: Path) -> Path:
    """Write a page; ResultError if it is too large to be sent around."""
    if len(page.encode("utf8")) > SIZE_LIMIT:
        raise disk.ResultError(
            f"{path}: {len(page):,} characters are over the 2 MB a report may have: report fewer rows at once"
        )
    return disk.write_atomic(path, page.encode("utf8"))


def html(parts: Sequence[Mapping[str, Any]], against: Mapping[str, Any] | None = None) -> str:
    """The whole page: of one folder or several (from ``part``), with what was ``compared`` before them."""
    environment = Environment(
        loader=PackageLoader("dipair_lib.reporting"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        parts=parts,
        against=against,
        title=" and ".join(part["title"] for part in parts),
        n_boot=sorted({n for part in parts for n in part["n_boot"]}),
        favours=next((part["favours"] for part in parts if part["favours"]), ""),
        reuse=f"{derived.REUSE:,.0f}",
    )


def part(side: comparison.Opened) -> dict[str, Any]:
    """What the page says of one folder."""
    damaged, stored = list(side.damaged), None
    if (side.folder / architecture_rows.FILE).exists():
        try:
            stored = architecture_rows.load(side.folder)
        except disk.ResultError as error:
            damaged.append(str(error))
    measured = side.data[side.data["family"] != "published"]
    studied, mattered = studies(side.folder), factors(side.folder)
    return {
        "title": wording.plain(side.name),
        "left_out": False,
        "tasks": [
            {
                **section(side.data[side.data["task"] == task], side),
                "study": studied.get(task),
                "factors": mattered.get(task),
            }
            for task in measured["task"].dropna().unique()
        ],
        "architectures": architectures(stored) if stored else None,
        "published": report_details.cells(overview.published(side.data)),
        "damaged": damaged,
        "machine": report_details.machine(measured),
        "favours": caveats.known_biases(measured),
        "command": report_details.command(measured.iloc[-1]) if len(measured) else "",
        "commits": report_details.commits(measured),
        "n_boot": sorted({int(n) for n in measured["n_boot"].dropna()}),
    }


def section(data: pd.DataFrame, side: comparison.Opened) -> dict[str, Any]:
    """What the page says of one task of a folder."""
    whole = overview.table(data)
    choices = [selection.select(data, limits) for limits in report_details.LIMITS]
    winners = [choice.winner for choice in choices if choice.winner]
    failed = guard.failed(data)
    first = data[data["family"] != "published"].iloc[0]
    return {
        "name": wording.plain(first["task"]),
        "n_models": len(whole),
        "n_examples": report_details.number(first["n_examples"]),
        "n_groups": report_details.number(first["n_groups"]),
        "n_train": report_details.number(first["n_train"]),
        "guards": failed,
        "choices": answers([choice for choice in choices if not report_compared.stopped(choice, failed)]),
        "given": bool(data["given"].any()),
        "favours": caveats.known_biases(data),
        "one_seed": one_seed(data),
        "noisy": int(data["noisy"].sum()),
        "figures": [
            {
                "title": FIGURES[name][0],
                "reading": FIGURES[name][1],
                "svg": svg(
                    tradeoff.draw(name, data, winners if name == "quality_speed" else ()),
                    data,
                    name,
                    f"{side.name} {first['task']}",
                ),
                "table": report_details.cells(whole[overview.columns_here(COLUMNS[name], whole)]),
            }
            for name in FIGURES
            if name != "kept" or data["keep"].notna().any()
        ],
        "tables": [
            (caption, report_details.cells(part))
            for caption, part in {**split(whole), **others(data, side)}.items()
        ],
        "sanity": report_details.sanity(data),
        "notes": report_details.notes(first["data_notes"]),
        "sha256": str(first["data_sha256"] or "")[:16],
    }


def others(data: pd.DataFrame, side: comparison.Opened) -> dict[str, pd.DataFrame]:
    """The table of what stands beside the headline metric, where there is any of it."""
    found = agreement.table(data, side.rows, side.folder)
    return {"All models: other metrics, agreement with the teacher": found} if found.shape[1] > 1 else {}


def one_seed(data: pd.DataFrame) -> str:
    """What one seed's interval does not say, of the students here that have one: all of them, or those named."""
    trained = data[(data["family"] != "published") & data["train_seconds"].gt(0) & ~data["teacher"]]
    alone = trained[trained["seeds"].fillna(1) <= 1]
    if alone.empty:
        return ""
    names = ", ".join(wording.plain(name, 60) for name in alone["model"].iloc[:6])
    more = f" and {len(alone) - 6} more" if len(alone) > 6 else ""
    who = (
        "Each student was" if len(alone) == len(trained) else f"With one seed stand {names}{more}: they were"
    )
    return (
        f"{who} trained once: the intervals say how sure the test split makes us, not how much another seed would change. "
        "Train three before a claim"
    )


def split(whole: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of all models as three that fit a page: quality, speed, and what a model is and holds."""
    quality = [
        "model",
        "family",
        "metric",
        "quality",
        "of the teacher",
        "gap closed",
        "seed",
        "pairs seen",
        "remarks",
    ]
    sizes = ["model", "tokens kept", "tokens read", "cache per text", "parameters", "FLOP per pair"]
    sizes = overview.columns_here(sizes, whole)
    speed = ["model", *(column for column in whole if column not in {*quality, *sizes})]
    return {
        "All models: quality, best first": whole[quality],
        "All models: speed": whole[speed],
        "All models: sizes": whole[sizes],
    }


def studies(folder: Path) -> dict[str, dict[str, Any]]:
    """The comparison of BiLSTM students of each task that has one: what was seen, its figure and its table.

    It is computed from raw logits, which a folder of rows alone (``rows.jsonl``) does not hold.
    """
    found = {}
    for task in ablation.tasks_of(folder):
        drawn = ablation_figure.figure(folder, task)
        label = f"{wording.plain(task)}: distillation or augmentation; the table below holds the gains"
        found[task] = {
            "said": ablation.sentence(folder, task),
            "svg": inline.inline(drawn, label, f"study {task}"),
            "table": report_details.cells(ablation.gains(folder, task)),
        }
    return found


def factors(folder: Path) -> dict[str, dict[str, Any]]:
    """The one-factor studies of DiPair of each task that has some: how far the best is from the target, the
    figure, and two tables.
    """
    found = {}
    for task in study.tasks_of(folder):
        label = f"{wording.plain(task)}: what matters in DiPair; the table below holds the same numbers"
        lines = study.table(folder, task)
        targets = target.targets_shown(target.targets(folder, task))
        found[task] = {
            "said": target.sentence(folder, task),
            "claims": study.claims(lines),
            "given": bool(lines["given"].any()),
            "n": int((lines["points"].notna() & (lines["value"] != lines["against"])).sum()),
            "svg": inline.inline(study_figure.figure(folder, task), label, f"factors {task}"),
            "table": report_details.cells(study.shown(lines)),
            "target": report_details.cells(targets) if len(targets) else None,
        }
    return found


def architectures(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of the speed of the paper's systems."""
    label = (
        "time per sentence of each system, ours beside the published; the table below holds the same numbers"
    )
    machine = content["machine"]
    return {
        "said": architecture_table.sentence(content),
        "svg": inline.inline(architecture_table.figure(content), label, "architectures"),
        "table": report_details.cells(architecture_table.table(content)),
        "ways": report_details.cells(architecture_table.ways_table(content)),
        "source": published.SURE_2,
        "machine": wording.plain(
            f"{machine['device_name']}, {machine['threads']} threads, torch {machine['torch']}, "
            + ", ".join(
                f"{device} {dtype} {peak:,.0f} GFLOP/s"
                for device, peaks in machine["peak_gflops"].items()
                for dtype, peak in peaks.items()
            )
        ),
    }


def answers(choices: list[criteria.Choice]) -> list[dict[str, str]]:
    """A heading and a sentence per limit; limits that the same model answers share one."""
    found: list[dict[str, str]] = []
    for limits, choice in zip(report_details.LIMITS, choices, strict=False):  # of none or of all
        if choice.winner and found and found[-1]["winner"] == choice.winner:
            found[-1]["limit"] += f" (or {100 * (limits.min_retained or 0):g} %)"
        else:
            found.append({"limit": str(limits), "sentence": choice.sentence, "winner": choice.winner or ""})
    return found


def svg(figure: Figure, data: pd.DataFrame, name: str, salt: str = "") -> str:
    """A figure as inline SVG whose points have hover texts."""
    hovers = {run: overview.hover(row) for run, row in data.iterrows()}
    label = FIGURES[name][0] + "; the table below holds the same numbers"
    return inline.inline(figure, label, f"{name} {salt}", hovers)
