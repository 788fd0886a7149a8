"""The model card of an exported student, all of it from its row."""

from __future__ import annotations

import html
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from dipair_lib import models
from dipair_lib.evaluation import results
from dipair_lib.evaluation.schema import Result
from dipair_lib.models.folders import EMBEDDED, EMBEDDED_PACKAGE
from dipair_lib.reporting import derived, export_onnx, guard, identity, report_details, wording
from dipair_lib.scoring.scorer import Scorer
from dipair_lib.system import disk, safe_yaml

# --- the card ---------------------------------------------------------------------------------------------------------------------


def card(
    row: Result,
    folder: Path,
    scorer: Scorer,
    licence: str,
    onnx_error: float | None,
    rounding: dict[str, float] | None,
) -> str:
    """The model card, Markdown: all of it from the row, its teacher's row and the packages installed here;
    text from data is escaped.

    Args:
        folder: results folder of the row.
        onnx_error: largest difference of the graphs, None where there are none.
        rounding: see ``rounding_of``.
    """
    environment = Environment(
        loader=PackageLoader("dipair_lib.reporting"), undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["md"] = markdown
    model, notes = scorer.model, report_details.notes(row.data_notes)
    return environment.get_template("card.md.j2").render(
        row=row,
        line=derived.frame([row]).iloc[0],
        quality=wording.within(row.quality, row.quality_low, row.quality_high),
        retained=wording.percent_within(row.retained, row.retained_low, row.retained_high),
        metrics=json.loads(row.metrics or "{}"),
        teacher=teacher_of(row, folder),
        guard=guard.guard_of(row, folder),
        rounding=rounding,
        notes=notes,
        parameters=said_parameters(row),
        data_licence=data_licence(notes),
        backbone_licence=licence,
        lengths=model.read_lengths,
        words=len(model.settings.get("words", ())),
        onnx_error=onnx_error,
        shortest=[]
        if onnx_error is None
        else [export_onnx.shortest(model, f) for f in range(len(model.read_lengths))],
        si=wording.si,
        times=wording.times,
        dash=wording.DASH,
    )


def markdown(value: Any) -> str:
    """Text from data on one line of Markdown that shows it as it is: neither HTML, nor a link, nor the end of
    a cell.
    """
    text = html.escape(wording.plain(value, 1200), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~#!])", r"\\\1", text)


def said_parameters(row: Result) -> str:
    """The notebook's parameters that were set to something; of a path on this machine only its last name."""
    values = identity.parameters_of(row.parameters)
    said = {
        name: Path(v).name if isinstance(v, str) and Path(v).is_absolute() else v
        for name, v in values.items()
    }
    return "; ".join(f"{name} {value}" for name, value in said.items() if value not in ("", [], None))


def teacher_of(row: Result, folder: Path) -> Result | None:
    """The row of its teacher, where that is still there."""
    try:
        return results.load_result(folder, row.teacher_run) if row.teacher_run else None
    except disk.ResultError:
        return None


def data_licence(notes: list[tuple[str, str]]) -> str:
    """What the data's notes say of licence or terms; else that it is unknown."""
    told = [f"{name}: {value}" for name, value in notes if re.search(r"licen[cs]e|terms", name, re.I)]
    return "; ".join(told) or "unknown: the data's notes do not say; ask its source, above"


def backbone_licence(model: models.PairModel) -> str:
    """What the backbone's package or directory says of its licence; else that it is unknown."""
    backbone = model.settings.get("backbone")
    if backbone is None:
        return "no backbone: a BiLSTM over words"
    if backbone == EMBEDDED:
        told: Any = metadata.metadata(EMBEDDED_PACKAGE)
        named = told.get("License-Expression") or told.get("License")
        return f"{named or 'unknown'}, says the package {told['Name']} {told['Version']}"
    front = re.match(r"---\n(.*?)\n---", readme(Path(backbone).expanduser()), re.S)
    try:
        named = (safe_yaml.load(front[1]) or {}).get("license") if front else None
    except (yaml.YAMLError, AttributeError, ValueError):
        named = None
    name = Path(backbone).name
    return f"{named}, says the README of {name}" if named else f"unknown: {name} does not say; ask its source"


def readme(directory: Path) -> str:
    """The README of a backbone's directory, or nothing."""
    path = directory / "README.md"
    return path.read_text(encoding="utf8", errors="replace") if path.is_file() else ""
