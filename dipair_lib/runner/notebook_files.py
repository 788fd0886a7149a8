"""A notebook's file: its parameters, the key of a run with them, and what its paths mean."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dipair_lib.evaluation import results
from dipair_lib.system import contents, disk
from dipair_lib.system.disk import ResultError

# Where a run writes and how fast it is allowed to be do not change what it computes: not part of its
# identity.
NOT_IDENTITY = frozenset({"out", "clock", "threads", "device"})
# Parameters that may name a model's folder or a file of rows or vectors, and names that never mean one.
OF_CONTENT = frozenset({"backbone", "teacher", "vectors", "unlabelled", "warm_on"})
NAMES = frozenset({"", "embedded", "backbone", "random"})


def run_key(
    notebook: str, parameters: Mapping[str, Any], data_sha256: str, device: str, folder: Path | str = "."
) -> str:
    """Name of a run: the notebook and ten digits that change with whatever changes its outcome.

    Args:
        parameters: of the notebook; where it writes, its threads, clock and ``device`` do not count; a local
            file or model's folder counts by what it holds. A hub name counts as a name: what the hub has
            under it may change unseen.
        data_sha256: fingerprint of the task's data.
        device: name of the processor it runs on, from `device_name` of that parameter.
        folder: what relative paths start from: the notebook's own.

    Raises:
        ResultError: a file that counts cannot be read.
    """
    counted = {
        name: held(value, Path(folder)) if name in OF_CONTENT else value
        for name, value in parameters.items()
        if name not in NOT_IDENTITY
    }
    text = disk.canonical_json([notebook, counted, data_sha256, device])
    return f"{notebook}-{hashlib.sha256(text.encode('utf8')).hexdigest()[:10]}"


def held(value: Any, folder: Path) -> Any:
    """The hash of what a local file or model's folder holds, in place of its path; any other value as it is."""
    if not isinstance(value, str) or value in NAMES:
        return value
    try:
        digest = contents.digest_of(folder / Path(value).expanduser())
    except RuntimeError:  # "~name" of nobody: no path
        return value
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no path either
            return value
        raise ResultError(
            f"{value}: cannot be read ({error.strerror}): its content tells runs apart; check its permissions"
        ) from error
    return f"sha256 {digest}" if digest else value


def notebook_parameters(path: Path | str) -> dict[str, Any]:
    """Names and default values of a notebook's cell tagged "parameters", in its order.

    Raises:
        ResultError: no notebook, not exactly one such cell, or something in it that is not ``name =
            literal``.
    """
    path = Path(path)
    for _ in range(25):  # JupyterLab empties the file of the notebook that runs before it writes it anew
        if (text := results.read_text(path)).strip():
            break
        time.sleep(0.2)
    try:
        cells = json.loads(text)["cells"]
        tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{path}: is not a notebook ({error})") from error
    if len(tagged) != 1:
        raise ResultError(f'{path}: expected one cell tagged "parameters", but got {len(tagged)}')
    values: dict[str, Any] = {}
    try:
        for statement in ast.parse("".join(tagged[0]["source"])).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    values[name] = ast.literal_eval(value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    values[name] = ast.literal_eval(value)
                case _:
                    raise ResultError(
                        f"{path}: parameters cell, line {statement.lineno}: expected `name = literal`, "
                        f"but got `{ast.unparse(statement)}`"
                    )
    except (SyntaxError, ValueError) as error:
        raise ResultError(
            f"{path}: parameters cell: expected only `name = literal` lines ({error})"
        ) from error
    return values


def find_notebook(notebook: str) -> Path:
    """The notebook's file, seen from the notebooks' folder or from the project's."""
    for folder in (Path(), Path("notebooks")):
        path = folder / f"{notebook}.ipynb"
        if path.is_file():
            return path
    raise ResultError(
        f"{notebook}.ipynb: not found in {Path.cwd()} or in notebooks/ below it; start from the project folder"
    )


def from_notebook(notebook: str, out: Path | str) -> Path:
    """A results folder as it is meant: from the notebook's own folder. Jupyter and suites start it there,
    papermill wherever the person is, such as in the project's folder. The path stays where the notebook is
    not found, and absolute ones do.
    """
    if not (Path("notebooks") / f"{notebook}.ipynb").is_file() or Path(f"{notebook}.ipynb").is_file():
        return Path(out)
    return Path(os.path.abspath(Path("notebooks") / out))
