"""A world in little, and the commands that are attacked in it: ``encode``, ``score``, ``export``, ``run``.

Each command works in the folder ``now``. It is run undisturbed once; what it leaves is what every disturbed run must leave once it was
started again. Of a row and an executed notebook the times are their own, and lock files say nothing; all else is compared to the byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from conftest import make_pairs, save_backbone, sentences
from test_export import saved, student
from test_suite import PARAMETERS, WORK, a, stage, write_notebook

from dipair_lib import cli
from dipair_lib.evaluation import verification
from dipair_lib.scoring import encoding, jobs

SHARD, TILE = 6, (5, 8)  # texts: many shards and units of a few texts
TEXTS = (31, 23)
TIMES = {"created_utc", "train_seconds", "git_dirty"}  # of a row, beside its clocks
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def make_small() -> None:
    """Shards and tiles of a few texts, trainings that leave a file after each step; in this process and those forked from it."""
    from dipair_lib.training import checkpoint

    encoding.encode.__kwdefaults__["shard_texts"] = SHARD  # type: ignore[index]
    defaults = jobs.Job.__init__.__defaults__
    jobs.Job.__init__.__defaults__ = tuple(TILE if value == (2048, 2048) else value for value in defaults)  # type: ignore
    checkpoint.EVERY_S = 0.02


@dataclass(frozen=True)
class Command:
    """A command line that is attacked.

    Attributes:
        name: as a person calls it. arguments: of ``dipair``. beside: those of a second process at work in the same folder.
        before: files that are there when it starts, a folder that is copied to ``now``.
    """

    name: str
    now: Path
    arguments: tuple[str, ...]
    beside: tuple[str, ...] = ()
    before: Path | None = None

    @property
    def lock(self) -> Path:
        """The file that a process at work holds."""
        return self.now / (".out.lock" if self.name.startswith("export") else "out/.lock")

    @property
    def whole(self) -> tuple[str, ...]:
        """The line of one process that does it all: without ``--part``."""
        return self.arguments[:-2] if self.beside else self.arguments

    def run(self) -> int:
        """The whole of it, in this process: all shares, then what a single process would find to be done."""
        lines = [self.arguments, self.beside, self.whole] if self.beside else [self.whole]
        return next((status for line in lines if (status := cli.main(line))), 0)

    def run_first(self) -> int:
        """What the first of two processes does."""
        return cli.main(self.arguments)

    def run_beside(self) -> int:
        """What the second does."""
        return cli.main(self.beside or self.arguments)

    def clear(self) -> None:
        """As before the first start."""
        shutil.rmtree(self.now, ignore_errors=True)
        self.fill()

    def fill(self) -> None:
        """As before the first start, in a folder that stays: another disk."""
        self.now.mkdir(parents=True, exist_ok=True)
        for path in self.now.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.before:
            shutil.copytree(self.before, self.now, dirs_exist_ok=True)

    def content(self) -> dict[str, Any]:
        """What is compared, by path."""
        return content(self.now)


def content(folder: Path) -> dict[str, Any]:
    """Every file below a folder but for locks: its bytes, without what is the time's own."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock") and path.name != "log.jsonl":
            try:
                found[str(path.relative_to(folder))] = compared(path)
            except (ValueError, KeyError, TypeError, AttributeError):  # a byte was changed
                found[str(path.relative_to(folder))] = path.read_bytes()
        elif path.is_dir() and (path.name.startswith(".") or path.suffix == ".tmp"):
            found[f"{path.relative_to(folder)}/"] = "left over"
    return found


def compared(path: Path) -> Any:
    """A file's bytes, or of one that says times, all else."""
    data = path.read_bytes()
    if path.name == "row.json":
        row = json.loads(data)
        return {
            name: value for name, value in row.items() if name not in TIMES and not name.startswith("git_")
        }
    if path.name == "rows.jsonl":
        return sorted(json.loads(line)["run_id"] for line in data.splitlines())
    if path.suffix == ".ipynb":
        noted = json.loads(data)["metadata"].get("dipair", {})
        return [sorted(noted.get("inputs", {})), noted.get("rows")]
    if path.name in {"SHA256SUMS", "rows.jsonl.sha256", "report.html"}:  # of files with times in them
        return sorted(line.split("  ")[-1] for line in data.decode().splitlines()) if b"  " in data else None
    return data


class World:
    """Everything that the commands read, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, folder / "now"
        self.backbone = Path(save_backbone(folder / "backbone"))
        self.run = saved(
            folder / "student", student(str(self.backbone)), parameters=json.dumps({"task": "toy"})
        )
        for side, texts in enumerate(TEXTS):
            words = sentences(texts, seed=10 + side)
            frame = pd.DataFrame({"id": [f"{'ab'[side]}{i}" for i in range(texts)], "text": words})
            frame.to_csv(folder / f"{side}.csv", index=False)
            for part in (frame[: texts // 2], frame):  # in two calls: what is added comes behind
                part.to_csv(folder / "part.csv", index=False)
                encoding.encode(
                    self.run, folder / "part.csv", side, folder / f"store-{side}", shard_texts=SHARD
                )
        chosen = pd.DataFrame(
            {"left": [f"a{i % 31}" for i in range(60)], "right": [f"b{i % 23}" for i in range(60)]}
        )
        chosen.to_csv(folder / "pairs.csv", index=False)
        self.suite = self.stub_suite()
        self.trained = self.real_suite()

    def stub_suite(self) -> Path:
        """A suite of six runs that take no time and leave a row each."""
        project = self.folder / "project"
        (project / "notebooks" / "suites").mkdir(parents=True)
        write_notebook(project / "notebooks" / "01_a.ipynb", PARAMETERS, WORK)
        stages = [
            stage(a(), required=True),
            stage({"notebook": "01_a", "grid": {"n": [2, 4, 5, 6]}}),
            stage(a(n=7, clock="all")),
        ]
        path = project / "notebooks" / "suites" / "s.yaml"
        path.write_text(yaml.safe_dump({"name": "s", "stages": stages}), encoding="utf8")
        return path

    def real_suite(self) -> Path:
        """A suite that trains a teacher and a student with this project's own notebooks, on a file of pairs."""
        project = self.folder / "training"
        (project / "notebooks" / "suites").mkdir(parents=True)
        for name in ("01_teacher", "03_dipair"):
            shutil.copy(NOTEBOOKS / f"{name}.ipynb", project / "notebooks")
        make_pairs()[["query", "passage", "label"]].to_csv(project / "pairs.csv", index=False)
        given: dict[str, Any] = {
            "task": str(project / "pairs.csv"), "fields": ["query", "passage"], "label": "label", "clock": "none",
            "backbone": str(self.backbone), "threads": 1,
        }  # fmt: skip
        teacher = {"epochs": 0.5, "learning_rates": [1e-4], "batch_size": 16}
        student = {
            "projection": [8],
            "keep": [2],
            "hidden": [8],
            "cosine_pairs": 100,
            "stage1_epochs": 0.5,
            "stage2_epochs": 0.5,
            "batch_size": 16,
        }
        stages = [
            stage({"notebook": "01_teacher", "parameters": teacher}, required=True),
            stage({"notebook": "03_dipair", "parameters": student}),
        ]
        path = project / "notebooks" / "suites" / "t.yaml"
        path.write_text(
            yaml.safe_dump({"name": "t", "defaults": given, "stages": stages}, allow_unicode=True),
            encoding="utf8",
        )
        return path

    def commands(self) -> dict[str, Command]:
        """Those that are attacked, by name."""
        run, out, store = str(self.run), str(self.now / "out"), str(self.folder / "store-")
        scored = (
            "score",
            "--student",
            run,
            "--left",
            f"{store}0",
            "--right",
            f"{store}1",
            "--device",
            "cpu",
            "--out",
            out,
        )
        every = (*scored, "--all", "--top", "3")
        encoded = (
            "encode",
            "--student",
            run,
            "--texts",
            str(self.folder / "0.csv"),
            "--field",
            "0",
            "--device",
            "cpu",
            "--out",
            out,
        )
        before = self.folder / "before-export"
        if not before.exists():
            cli.main(("export", run, str(before / "out")))
        lines: dict[str, tuple[Any, ...]] = {
            "encode": (encoded,),
            "encode --dtype int8": ((*encoded, "--dtype", "int8"),),
            "score --all": (every,),
            "score --all by parts": ((*every, "--part", "0/2"), (*every, "--part", "1/2")),
            "score --pairs": ((*scored, "--pairs", str(self.folder / "pairs.csv")),),
            "export": (("export", run, out),),
            "export over an earlier one": (("export", run, out), (), before),
            "run": (("run", str(self.suite), "--out", out, "--jobs", "2"),),
            "run, training": (("run", str(self.trained), "--out", out),),
        }
        return {name: Command(name, self.now, *given) for name, given in lines.items()}

    def problems(self, command: Command) -> list[str]:
        """What ``dipair verify`` says of what a command left."""
        return verification.verify(self.now / "out") if command.name.startswith("run") else []


Check = Callable[[dict[str, Any], dict[str, Any]], str]


def different(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The first difference between what two runs left, in words; nothing where there is none."""
    if found.keys() != expected.keys():
        return f"other files: {', '.join(sorted(found.keys() ^ expected.keys()))[:300]}"
    return next((f"{name}: other content" for name in expected if found[name] != expected[name]), "")
