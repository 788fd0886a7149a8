"""What `experiments.architectures` measured, as it is stored in a results folder."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from dipair_lib.evaluation import results
from dipair_lib.system import disk

FILE = "architectures.json"
SCHEMA = 1
NUMBER = (int, float)
# Of each list the fields that are read for people, and their types; None where something could not be
# measured.
FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "systems": {
        **dict.fromkeys(("system", "device", "dtype"), (str,)),
        **dict.fromkeys(("seconds", "seconds_q1", "seconds_q3", "rest_seconds", "flops", "padding"), NUMBER),
        **dict.fromkeys(("params_total", "params_look_up", "sentences"), (int,)),
        "peak_fraction": (*NUMBER, type(None)),
    },
    "ways": {
        **dict.fromkeys(("way", "problem"), (str,)),
        **dict.fromkeys(("seconds", "speedup", "difference"), (*NUMBER, type(None))),
    },
}
KEYS = ("created_utc", "parameters", "machine", "systems", "slower", "parts", "ways")


def load(folder: str | Path) -> dict[str, Any]:
    """The stored measurement of a results folder.

    Raises:
        ResultError: there is none, or it is cut off, foreign, of another schema, or holds what is no number.
    """
    path = Path(folder) / FILE
    again = "Delete it and run 07_architectures again"

    def refuse(constant: str) -> None:
        raise disk.ResultError(f"{path}: {constant} is not a number this file may hold. {again}")

    try:
        content = json.loads(results.read_text(path), parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise disk.ResultError(f"{path}: is cut off or not JSON ({error}). {again}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise disk.ResultError(f"{path}: schema: expected {SCHEMA}, but got {found!r}. {again}")
    if missing := [key for key in KEYS if key not in content]:
        raise disk.ResultError(f"{path}: missing {', '.join(missing)}. {again}")
    for part, fields in FIELDS.items():
        rows = content[part]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise disk.ResultError(f"{path}: {part}: expected a list of objects. {again}")
        for row, (name, types) in itertools.product(rows, fields.items()):
            if name not in row or isinstance(row[name], bool) or not isinstance(row[name], types):
                raise disk.ResultError(
                    f"{path}: {part}: a field is missing or of the wrong type ({name}). {again}"
                )
    if not isinstance(content["parts"], dict):
        raise disk.ResultError(f"{path}: parts: expected an object. {again}")
    return content
