"""A suite's YAML file: read, checked, and expanded into the runs that it asks for. No data is loaded and
nothing is started.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
import os
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from dipair_lib.data import loading
from dipair_lib.runner import notebook_files
from dipair_lib.system import disk, safe_yaml

PATH_PARAMETERS = (
    "task",
    "backbone",
    "teacher",
    "vectors",
    "unlabelled",
    "warm_on",
)  # a name, or a file or folder of the user's
MOST_RUNS = 10_000  # of one entry's grid
NOT_APPLICABLE = re.compile(r"DoesNotApply: (\w+): ")  # the error of a run, and the parameter it names


class SuiteError(ValueError):
    """A suite or an override is not what it should be, or the folder is taken; nothing was started."""


@dataclass(frozen=True)
class Planned:
    """One run as it will be made.

    Attributes:
        parameters: of the notebook, defaults included.
        label: the notebook and what sets this run apart, for people.
        stage: counted from 0.
        alone: it measures time.
        asked: names of the parameters set for this run itself, by its ``parameters`` or an override, not by a
            grid or a default.
    """

    notebook: str
    path: Path
    parameters: dict[str, Any]
    label: str
    stage: int
    required: bool
    alone: bool
    asked: frozenset[str] = frozenset()
    key: str = ""

    def left_out(self, error: str) -> bool:
        """Whether an error says only that a value nobody asked of this run alone does not suit the data."""
        found = NOT_APPLICABLE.match(error)
        return found is not None and not self.required and found[1] not in self.asked


@dataclass(frozen=True)
class Suite:
    """A checked and expanded suite."""

    name: str
    out: Path
    notebooks: Path
    runs: list[Planned] = field(default_factory=list)
    fingerprints: Mapping[str, str] = field(default_factory=dict)  # of the data, by ``task_of``


def read_suite(
    path: Path | str,
    overrides: Mapping[str, str] | None = None,
    out: Path | str | None = None,
    notebooks_dir: Path | str | None = None,
) -> Suite:
    """Read, check and expand a suite; no data is loaded and no kernel started.

    Args:
        path: the YAML file.
        overrides: parameter name to value as typed on a command line (YAML), for every notebook that has it.
        out: results folder in place of the suite's own.
        notebooks_dir: default the nearest folder with notebooks at or above the YAML file.

    Raises:
        SuiteError: naming file, run and parameter, with the close matches of an unknown name.
        ResultError: a notebook without a proper parameters cell.
    """
    path, overrides = Path(path), dict(overrides or {})
    try:
        content = safe_yaml.load(path.read_text(encoding="utf8"))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.yaml")], n=3, cutoff=0.3
        )
        raise SuiteError(f"{path}: no such suite{did_you_mean(near)}") from error
    except Exception as error:  # PyYAML lets through what its readers of dates and numbers raise
        raise SuiteError(f"{path}: could not be read as YAML: {error}") from error
    where = str(path)
    suite = mapping(content, where, {"name", "out", "defaults", "stages"}, needed={"name", "stages"})
    if not isinstance(suite["name"], str) or not re.fullmatch(r"\w[\w.-]*", suite["name"]):
        raise SuiteError(f"{where}: name: expected a word, but got {reprlib.repr(suite['name'])}")
    if not isinstance(suite.get("out") or "", str) or not is_serialisable(suite.get("out")):
        raise SuiteError(f"{where}: out: expected a folder, but got {reprlib.repr(suite['out'])}")
    notebooks = Path(notebooks_dir) if notebooks_dir else notebooks_folder(path)
    known = {p.stem: notebook_files.notebook_parameters(p) for p in sorted(notebooks.glob("*.ipynb"))}
    if not out and suite.get("out"):
        check_inside(suite["out"], where)
    folder = Path(out) if out else notebooks.parent / (suite.get("out") or f"results/{suite['name']}")
    if notebooks.resolve().is_relative_to(folder.resolve()):
        raise SuiteError(f"{where}: out: {folder} holds the notebooks themselves: name a folder for results")
    defaults = mapping(suite.get("defaults") or {}, f"{where}: defaults")
    used: set[str] = set()
    runs: list[Planned] = []
    for number, stage in enumerate(sequence(suite["stages"], f"{where}: stages"), start=1):
        at = f"{where}: stage {number}"
        stage = mapping(stage, at, {"runs", "required"}, needed={"runs"})
        if not isinstance(stage.get("required", False), bool):
            raise SuiteError(
                f"{at}: required: expected true or false, but got {reprlib.repr(stage['required'])}"
            )
        for position, entry in enumerate(sequence(stage["runs"], f"{at}: runs"), start=1):
            here = f"{at}, run {position}"
            entry = mapping(entry, here, {"notebook", "parameters", "grid"}, needed={"notebook"})
            name = entry["notebook"]
            if not isinstance(name, str) or name not in known:
                near = difflib.get_close_matches(reprlib.repr(name), list(known), n=3, cutoff=0.4)
                raise SuiteError(
                    f"{here}: no notebook {reprlib.repr(name)} in {notebooks}{did_you_mean(near)}"
                )
            used.add(name)
            for own in expand(entry, here):
                parameters = with_values(known[name], defaults, own, overrides, f"{here} ({name})")
                if "out" in parameters:
                    parameters["out"] = relative(folder, notebooks)
                for key in PATH_PARAMETERS:
                    if key in parameters:
                        base = Path() if key in overrides else notebooks.parent
                        parameters[key] = own_path(parameters[key], base, notebooks, key)
                told = {k: v for k, v in {**own, **overrides}.items() if k in known[name] and k in own}
                label = " ".join([name, *(f"{k}={parameters[k]}" for k in told)])
                alone = parameters.get("clock", "none") != "none"
                runs.append(
                    Planned(
                        name,
                        notebooks / f"{name}.ipynb",
                        parameters,
                        label,
                        number - 1,
                        bool(stage.get("required")),
                        alone,
                        frozenset(entry.get("parameters") or {}) | frozenset(overrides),
                    )
                )
    here_known = {name: known[name] for name in used}
    check_known(defaults, here_known, f"{where}: defaults")
    check_known(overrides, here_known, "-p")
    return Suite(suite["name"], folder, notebooks, without_duplicates(runs, where, overrides))


def check_inside(out: str, where: str) -> None:
    """SuiteError unless a folder that a suite names itself lies in the project: only who starts it says where
    else results go.
    """
    lexical = os.path.normpath(out)  # a link that somebody made inside the project may lead anywhere
    absolute = Path(out).is_absolute() or PureWindowsPath(out).drive or out.startswith(("/", "\\", "~"))
    if absolute or lexical.split(os.sep)[0] == "..":
        raise SuiteError(
            f"{where}: out: expected a folder in the project, such as results/mine, but got {out!r}: name it with --out instead"
        )


def notebooks_folder(path: Path) -> Path:
    """The nearest folder with notebooks, at or above a suite's file."""
    for folder in list(path.resolve().parents)[:3]:
        if any(folder.glob("*.ipynb")):
            return folder
    raise SuiteError(f"{path}: expected notebooks beside it or in the folder above, but there are none")


def mapping(
    value: Any, where: str, allowed: set[str] | None = None, needed: Sequence[str] | set[str] = ()
) -> dict:
    """The value, or SuiteError unless it is a mapping of words with only allowed and all needed keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise SuiteError(f"{where}: expected `name: value` lines, but got {reprlib.repr(value)}")
    for key in value:
        if allowed is not None and key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=2, cutoff=0.5)
            raise SuiteError(f"{where}: unknown key {key!r}{did_you_mean(near, allowed)}")
    for key in needed:
        if key not in value:
            raise SuiteError(f"{where}: {key} is missing")
    return value


def sequence(value: Any, where: str) -> list:
    """The value, or SuiteError unless it is a list with something in it."""
    if not isinstance(value, list) or not value:
        raise SuiteError(f"{where}: expected a list with at least one entry, but got {reprlib.repr(value)}")
    return value


def did_you_mean(near: Sequence[str], known: Collection[str] = ()) -> str:
    """The end of a message: the close matches, or all that is known where nothing is close."""
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def expand(entry: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """The parameter sets of one entry: its ``parameters`` with every combination of its ``grid``."""
    fixed = mapping(entry.get("parameters") or {}, f"{where}: parameters")
    grid = mapping(entry.get("grid") or {}, f"{where}: grid")
    for name, values in grid.items():
        sequence(values, f"{where}: grid: {name}")
        if name in fixed:
            raise SuiteError(f"{where}: {name} stands in parameters and in grid; keep one")
    if math.prod(map(len, grid.values())) > MOST_RUNS:
        raise SuiteError(f"{where}: grid: expected at most {MOST_RUNS:,} combinations; take some values out")
    for combination in itertools.product(*grid.values()):
        yield {**fixed, **dict(zip(grid, combination, strict=True))}


def with_values(
    known: Mapping[str, Any],
    defaults: Mapping[str, Any],
    own: Mapping[str, Any],
    overrides: Mapping[str, str],
    where: str,
) -> dict[str, Any]:
    """A notebook's parameters with the suite's defaults, the run's own values and the overrides put in, in
    that order.
    """
    check_known(own, {where: known}, where)
    values = dict(known)
    for name in known:
        if name in defaults:
            values[name] = of_type(defaults[name], known[name], f"{where}: defaults: {name}")
        if name in own:
            values[name] = of_type(own[name], known[name], f"{where}: {name}")
        if name in overrides:
            read = names_from_text if name == "fields" else from_text
            values[name] = of_type(read(overrides[name], known[name]), known[name], f"-p {name}, for {where}")
    return values


def check_known(given: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """SuiteError for a parameter that no notebook of ``known`` has, with the close matches."""
    names = sorted({name for parameters in known.values() for name in parameters})
    for name in given:
        if name == "out":
            raise SuiteError(f"{where}: out is set for the whole suite: `out:` in its file, or --out")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            raise SuiteError(f"{where}: unknown parameter {name!r}{did_you_mean(near, names)}")


def from_text(text: str, default: Any) -> Any:
    """A value typed on a command line: as it stands for a text parameter, else YAML; "a,b" is a list where
    one belongs.
    """
    if isinstance(default, str):
        return text
    try:
        value = safe_yaml.load(text)
    except Exception as error:
        raise SuiteError(f"-p: {text!r} could not be read as YAML: {error}") from error
    if isinstance(default, list) and not isinstance(value, list):
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else [value]
    return value


def names_from_text(text: str, default: Any) -> Any:
    """Names of columns typed on a command line, "[on,#1 String]" or "on,#1 String": as they stand, whatever
    YAML takes them for; one that holds a comma stands in quotes.
    """
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    parts = re.findall(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,]*?)\s*(?:,|$)""", inner.strip())
    found = [part for part in parts if part]
    return [
        part[1:-1].replace('\\"', '"').replace("''", "'" if part[0] == "'" else "''")
        if len(part) > 1 and part[0] == part[-1] and part[0] in "\"'"
        else part
        for part in found
    ]


def of_type(value: Any, default: Any, where: str) -> Any:
    """The value in the type of the notebook's literal, or SuiteError. A whole number is a float where one is
    expected.
    """
    if isinstance(default, float) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-4 as a word.
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            value = float(value)
    fits = default is None or type(value) is type(default)
    if fits and all(map(is_serialisable, value if isinstance(value, list) else [value])):
        return value
    raise SuiteError(
        f"{where}: expected {type(default).__name__} (like {default!r}), but got {reprlib.repr(value)}"
    )


def is_serialisable(value: Any) -> bool:
    """Whether a row can hold a value among its parameters: a text, a finite number, yes or no."""
    if isinstance(value, str):
        return not re.search("[\0\ud800-\udfff]", value)
    return (
        value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    )


def relative(path: Path, start: Path) -> str:
    """The path as seen from the notebooks: rows and notebooks then read the same wherever the project lies."""
    try:
        return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()


def own_path(value: Any, base: Path, notebooks: Path, key: str = "") -> Any:
    """A file or folder as seen from the notebooks; a name stays a name."""
    with contextlib.suppress(OSError):  # too long for a path: left to the task's own error
        if isinstance(value, str) and value and (base / value).exists():
            looks_like_path = "/" in value or os.sep in value or "." in value
            holds_data = (
                (base / value).is_dir() and key == "task" and value not in loading.BUILT_IN and value != "q2p"
            )
            if looks_like_path or holds_data or (base / value).is_file():
                return relative(base / value, notebooks)
    return value


def without_duplicates(runs: list[Planned], where: str, overrides: Mapping[str, str]) -> list[Planned]:
    """Each run once. Equal runs are an error, except where an override made them equal."""
    unique: dict[str, Planned] = {}
    for run in runs:
        identity = disk.canonical_json([run.notebook, run.parameters])
        if identity in unique and not overrides:
            raise SuiteError(
                f"{where}: {run.label} is a duplicate (stages {unique[identity].stage + 1} and {run.stage + 1})"
            )
        unique.setdefault(identity, run)
    return list(unique.values())
