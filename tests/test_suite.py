"""Suites: refused before anything starts, resumed after any kill, failures named, clocks alone."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dipair_lib import cli
from dipair_lib.evaluation import results, schema, verification
from dipair_lib.reporting import report
from dipair_lib.runner import suite, suite_checks, suite_display, suite_file, suite_runs
from dipair_lib.runner.suite_file import SuiteError
from dipair_lib.scoring import job_parts
from dipair_lib.system import disk, machine, safe_yaml

ROOT = Path(__file__).parents[1]
PARAMETERS = """\
n = 1  # a number
rate = 0.5  # another
word = "x"  # a word
names = []  # a list
clock = "none"  # what is timed
out = "../results/x"  # where to
seconds = 0.0  # how long it takes
"""
# Writes when it ran and with what, fails for n = 3, and saves a row.
WORK = """\
import json, os, sys, time
import numpy as np
from dipair_lib.evaluation import results, schema
begin = time.time()
time.sleep(seconds)
names_kept = ("PYTHONHASHSEED", "TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_TELEMETRY", "OMP_NUM_THREADS", "DIPAIR_THREADS")
told = {"python": sys.executable, "n": n, "rate": rate, "word": word, "names": names, "clock": clock, "begin": begin, "end": time.time()}
with open("../log.jsonl", "a") as log:
    log.write(json.dumps({**told, **{k: os.environ.get(k) for k in names_kept}}) + "\\n")
if n == 9:
    os.kill(os.getpid(), 9)
if n == 3:
    raise ValueError("n is three,\\n\\x1b[31mwhich is too many")
key = os.environ["DIPAIR_RUN"]
row = schema.Result(run_id=key + ".m", created_utc="2026", notebook=key.split("-")[0], suite="s", task="t", split="test",
                     model=f"m {n}", family="dipair", metric="accuracy", quality=0.75, n_examples=4)
results.save_result(out, row, np.array([[1.0], [1], [-1], [-1]]), np.array([1, 1, 0, 1]), np.arange(4))
"""


def write_notebook(path: Path, parameters: str, *cells: str) -> None:
    metadata: dict[str, Any] = {"tags": ["parameters"]}
    made = [{"cell_type": "code", "id": "p", "metadata": metadata, "source": parameters}]
    made += [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": cell} for i, cell in enumerate(cells)
    ]
    cells_json = [{**cell, "outputs": [], "execution_count": None} for cell in made]
    # The kernel a person's JupyterLab saved is not on this machine.
    kernel = {"name": "my-old-kernel", "display_name": "Mine", "language": "python"}
    content = {"cells": cells_json, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content), encoding="utf8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with two tiny notebooks, the current folder being elsewhere."""
    (tmp_path / "notebooks" / "suites").mkdir(parents=True)
    write_notebook(tmp_path / "notebooks" / "01_a.ipynb", PARAMETERS, WORK)
    write_notebook(
        tmp_path / "notebooks" / "04_b.ipynb", 'flag = False  # yes or no\nclock = "all"  # time', "1 + 1"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def write_suite(project: Path, *stages: dict[str, Any], **other: Any) -> Path:
    path = project / "notebooks" / "suites" / "s.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "stages": list(stages), **other}), encoding="utf8")
    return path


def stage(*runs: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {"runs": list(runs), **other}


def a(**parameters: Any) -> dict[str, Any]:
    return {"notebook": "01_a", "parameters": parameters}


def log(project: Path) -> list[dict[str, Any]]:
    path = project / "log.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []
    )


def run(path: Path, *overrides: str, **options: Any) -> tuple[int, str]:
    """Exit status and what was shown."""
    stream = io.StringIO()
    status = suite.run_suite(path, cli.overrides(overrides), stream=stream, **options)
    return status, stream.getvalue()


class TestRefusals:
    @pytest.mark.parametrize(
        ("stages", "other", "message"),
        [
            ([stage(a(sed=1), a(rte=1))], {}, r"stage 1, run 1 \(01_a\): unknown parameter 'sed'"),
            ([stage(a(), a(rte=1))], {}, r"run 2 \(01_a\): unknown parameter 'rte'; did you mean rate\?"),
            (
                [stage(a())],
                {"defaults": {"wrod": "y"}},
                r"defaults: unknown parameter 'wrod'; did you mean word",
            ),
            ([stage({"notebook": "01_b"})], {}, r"no notebook '01_b' in .*; did you mean .*01_a"),
            ([stage(a(n="many"))], {}, "n: expected int .like 1., but got 'many'"),
            ([stage(a(n=True))], {}, "n: expected int .like 1., but got True"),
            ([stage(a(n=1.5))], {}, "n: expected int"),
            ([stage(a(rate="fast"))], {}, "rate: expected float"),
            ([stage(a(word=1))], {}, "word: expected str"),
            ([stage({"notebook": "04_b", "parameters": {"flag": 1}})], {}, "flag: expected bool"),
            ([stage(a(out="x"))], {}, "out is set for the whole suite"),
            ([stage(a(n=2), a(n=2))], {}, "01_a n=2 is a duplicate"),
            ([stage({"notebook": "01_a", "grid": {"n": [1, 1]}})], {}, "is a duplicate"),
            ([stage({**a(n=1), "grid": {"n": [1]}})], {}, "n stands in parameters and in grid"),
            ([stage({"notebook": "01_a", "grid": {"n": 1}})], {}, "grid: n: expected a list"),
            ([stage({"notebok": "01_a"})], {}, "unknown key 'notebok'; did you mean notebook"),
            ([stage({"parameters": {}})], {}, "run 1: notebook is missing"),
            ([stage(a(), required="yes")], {}, "required: expected true or false"),
            ([stage()], {}, "stage 1: runs: expected a list with at least one entry"),
            ([], {}, "stages: expected a list"),
            ([stage(a())], {"out": "o", "colour": 1}, "unknown key 'colour'"),
            ([stage(a())], {"name": ".."}, "name: expected a word, but got '..'"),
            ([stage(a())], {"out": "."}, "out: .* holds the notebooks themselves"),
            ([stage(a())], {"out": ["o"]}, r"out: expected a folder, but got \['o'\]"),
            ([stage({"notebook": ["01_a"]})], {}, r"no notebook \['01_a'\]"),
            ([stage(a(rate=float("nan")))], {}, "rate: expected float .like 0.5., but got nan"),
            ([stage(a(names=[["x"] * 9] * 9))], {}, "names: expected list"),
            (
                [stage({"notebook": "01_a", "grid": {n: [*range(99)] for n in ("n", "rate", "seconds")}})],
                {},
                "at most 10,000 combinations",
            ),
        ],
    )
    def test_a_wrong_suite_is_refused_before_anything_starts(
        self, project: Path, stages: list, other: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(SuiteError, match=message):
            run(write_suite(project, *stages, **other))
        assert not (project / "results").exists()
        assert log(project) == []

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("ratte=1", r"-p: unknown parameter 'ratte'; did you mean rate\?"),
            ("n=many", "-p n, for .*: expected int .like 1., but got 'many'"),
            ("n=[1", "could not be read as YAML"),
            ("out=here", "or --out"),
        ],
    )
    def test_a_wrong_override_is_refused_before_anything_starts(
        self, project: Path, override: str, message: str
    ) -> None:
        with pytest.raises(SuiteError, match=message):
            run(write_suite(project, stage(a())), override)
        assert not (project / "results").exists()

    def test_a_missing_or_broken_file_is_named(self, project: Path) -> None:
        path = write_suite(project, stage(a()))
        with pytest.raises(SuiteError, match=r"ss\.yaml: no such suite; did you mean s\.yaml\?"):
            run(path.with_name("ss.yaml"))
        path.write_text("name: [", encoding="utf8")
        with pytest.raises(SuiteError, match=r"s\.yaml: could not be read as YAML"):
            run(path)

    def test_a_file_whose_anchors_unfold_to_millions_is_refused_at_once(self, project: Path) -> None:
        path = write_suite(project, stage(a()))
        merged = "".join(
            f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)
        )
        listed = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 400))
        for text, said in (
            (f"m0: &m0 {{a: 1}}\n{merged}", "unfold to more than 100,000 values"),
            (f"l0: &l0 [1]\n{listed}", "unfold to more than 100,000 values"),
            ("a: &a [*a]", "holds itself"),
            ("#" * 300_000, "expected at most 262,144 characters"),
        ):
            path.write_text(text, encoding="utf8")
            begun = time.monotonic()
            with pytest.raises(SuiteError, match=f"s.yaml: could not be read as YAML: .*{said}"):
                run(path)
            assert time.monotonic() - begun < 5
        assert safe_yaml.load("a: &a {x: 1}\nb: {<<: *a, y: [*a, *a]}") == yaml.safe_load(
            "a: &a {x: 1}\nb: {<<: *a, y: [*a, *a]}"
        )

    def test_a_second_suite_in_the_folder_is_refused_naming_the_first(self, project: Path) -> None:
        path = write_suite(project, stage(a()))
        program = (
            "import sys, pathlib\nfrom dipair_lib.runner import suite\n"
            "with suite.only_one(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", program, str(project / "results" / "s")]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(SuiteError, match=f"another suite .process {other.pid}. is running"):
                run(path)
            other.kill()
        # The lock of a killed process is nobody's.
        with suite.only_one(project / "results" / "s"):
            assert (project / "results" / "s" / ".pid").read_text(encoding="utf8") == f"{os.getpid()}\n"


class TestExpansion:
    def test_grid_defaults_and_overrides_in_that_order(self, project: Path) -> None:
        entry = {
            "notebook": "01_a",
            "parameters": {"word": "own"},
            "grid": {"n": [1, 2], "rate": [1, "1e-4"]},
        }
        path = write_suite(
            project, stage(entry), stage({"notebook": "04_b"}), defaults={"word": "default", "seconds": 2}
        )
        read = suite_file.read_suite(path, {"names": "a, b"})
        values = [(r.parameters["n"], r.parameters["rate"]) for r in read.runs[:-1]]
        assert values == [(1, 1.0), (1, 1e-4), (2, 1.0), (2, 1e-4)]
        first = read.runs[0].parameters
        assert first["word"] == "own" and first["seconds"] == 2.0 and first["names"] == ["a", "b"]
        assert first["out"] == "../results/s"
        assert [r.alone for r in read.runs] == [False] * 4 + [True]
        assert read.runs[0].label == "01_a word=own n=1 rate=1.0"
        assert suite_file.read_suite(path, {"word": "yes"}).runs[0].parameters["word"] == "yes"

    def test_an_override_that_makes_runs_equal_leaves_one(self, project: Path) -> None:
        path = write_suite(project, stage({"notebook": "01_a", "grid": {"n": [1, 2, 4]}}))
        assert [r.parameters["n"] for r in suite_file.read_suite(path, {"n": "7"}).runs] == [7]

    @pytest.mark.parametrize(
        ("text", "default", "value"),
        [
            ("no", "x", "no"),
            ("1e-4", 0.5, "1e-4"),
            ("[query,text]", [], ["query", "text"]),
            ("query", [], ["query"]),
            ("8", [4], [8]),
            ("true", False, True),
        ],
    )
    def test_a_typed_value_follows_the_notebook(self, text: str, default: Any, value: Any) -> None:
        assert suite_file.from_text(text, default) == value

    def test_own_files_are_found_from_where_the_command_was_typed(self, project: Path) -> None:
        write_notebook(project / "notebooks" / "02_c.ipynb", 'task = "pydocs"\nout = "x"', "1")
        (project / "elsewhere" / "pairs.csv").touch()
        (project / "elsewhere" / "pydocs").mkdir()
        path = write_suite(project, stage({"notebook": "02_c"}))

        def task(**overrides: str) -> str:
            return suite_file.read_suite(path, overrides).runs[0].parameters["task"]

        assert task() == "pydocs"
        assert task(task="pydocs") == "pydocs", "a name stays a name"
        assert task(task="pairs.csv") == "../elsewhere/pairs.csv"
        assert task(task="none.csv") == "none.csv", "left to the task's own error"

    def test_the_out_option_wins(self, project: Path) -> None:
        read = suite_file.read_suite(write_suite(project, stage(a()), out="results/o"), out="mine")
        assert (read.out, read.runs[0].parameters["out"]) == (Path("mine"), "../elsewhere/mine")


class TestRunning:
    def test_failures_are_named_the_rest_goes_on_and_only_what_is_needed_is_done_again(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report, "write", lambda folder: folder / "report.html")
        monkeypatch.setattr(machine, "cores", lambda: 2)
        # Somebody's other Python under the usual name, first in Jupyter's path.
        other = project / "jupyter" / "kernels" / "python3"
        other.mkdir(parents=True)
        (other / "kernel.json").write_text(
            json.dumps(
                {"argv": ["/bin/false", "{connection_file}"], "display_name": "P", "language": "python"}
            )
        )
        monkeypatch.setenv("JUPYTER_PATH", str(project / "jupyter"))
        many = {"notebook": "01_a", "grid": {"n": [9, 2, 3, 4]}}
        path = write_suite(project, stage(a(), required=True), stage(many, a(clock="all", n=5)))
        status, shown = run(path, "seconds=0.5", jobs=2)
        out = project / "results" / "s"
        assert status == 1
        assert "\x1b" not in shown, "what a notebook raised cannot steer the terminal"
        end = shown.split("4 finished, 2 failed")[1]
        assert re.search(
            f"failed: 01_a n=3\n  ValueError: n is three, which is too many\n  {out}/notebooks/01_a-.*failed.ipynb",
            end,
        )
        assert "failed: 01_a n=9\n  its kernel was killed from outside, most likely because memory" in end
        by_n = {entry["n"]: entry for entry in log(project)}
        assert set(by_n) == {1, 2, 3, 4, 5, 9}
        (killed,) = re.findall(r"FAILED   01_a n=9 \((\d+) s\)", shown)
        assert int(killed) < 60, "noticed within a minute; the others went on"
        assert {entry["python"] for entry in by_n.values()} == {sys.executable}
        assert by_n[1]["end"] <= min(by_n[n]["begin"] for n in (2, 3, 4)), "stages follow each other"
        assert by_n[5]["begin"] >= max(by_n[n]["end"] for n in (1, 2, 3, 4)), "a clock runs alone"
        assert by_n[2]["PYTHONHASHSEED"] == "0" and by_n[2]["TOKENIZERS_PARALLELISM"] == "false"
        assert by_n[2]["HF_HUB_DISABLE_TELEMETRY"] == "1"
        assert (by_n[2]["OMP_NUM_THREADS"], by_n[2]["DIPAIR_THREADS"]) == ("1", "1"), "processors are shared"
        assert by_n[5]["DIPAIR_THREADS"] == "2", "a clock has them all"
        rows = results.load_results(out)
        assert sorted(r.model for r in rows) == ["m 1", "m 2", "m 4", "m 5"]
        assert len((out / "rows.jsonl").read_text(encoding="utf8").splitlines()) == 4
        executed = sorted(p.name for p in (out / "notebooks").glob("*.ipynb") if "failed" not in p.name)
        assert executed == [f"{r.run_id.removesuffix('.m')}.ipynb" for r in rows]
        for name in executed:
            assert str(project) not in (out / "notebooks" / name).read_text(encoding="utf8")

        # Again: the failed run is tried anew, the others are kept. One row is damaged: it is made anew, with what reads it.
        damaged = next(r for r in rows if r.model == "m 2")
        (results.row_folder(out, damaged.run_id) / "row.json").write_text("{", encoding="utf8")
        entry = {"notebook": "01_a", "grid": {"n": [2, 3, 4]}}
        path = write_suite(project, stage(a(), required=True), stage(entry, a(clock="all", n=5)))
        status, shown = run(path, "seconds=0.5", jobs=2)
        assert status == 1 and "2 kept, 1 failed" in shown
        assert sorted(entry["n"] for entry in log(project)[6:]) == [2, 3, 5]
        assert results.load_results(out) == rows

    def test_a_value_that_does_not_suit_the_data_is_left_out_unless_it_was_asked_for(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report, "write", lambda folder: folder / "report.html")
        cell = 'from dipair_lib.models.dipair import DoesNotApply\nif n > 3:\n    raise DoesNotApply(f"n: got {n}")'
        write_notebook(project / "notebooks" / "01_a.ipynb", PARAMETERS, cell, WORK)
        grid = {"notebook": "01_a", "grid": {"n": [2, 4]}}
        status, shown = run(write_suite(project, stage(grid)))
        assert status == 0 and "left out 01_a n=4: DoesNotApply: n: got 4" in shown
        assert "s: 1 finished, 1 left out, in" in shown and "failed" not in shown
        status, shown = run(write_suite(project, stage(a(n=4), a(n=2))))
        assert status == 1 and "1 kept, 1 failed" in shown and "DoesNotApply: n: got 4" in shown
        assert run(write_suite(project, stage(grid)), "n=4")[0] == 1, "asked for with -p"
        assert run(write_suite(project, stage(grid, required=True)))[0] == 1, "all later runs need it"

    def test_a_required_failure_ends_the_suite(self, project: Path) -> None:
        status, shown = run(write_suite(project, stage(a(n=3), required=True), stage(a(n=2))))
        assert status == 1 and "1 failed, 1 not run" in shown
        assert [entry["n"] for entry in log(project)] == [3]

    def test_neither_a_failing_report_nor_a_full_disk_loses_rows(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(folder: Path) -> Path:
            raise RuntimeError("no ink")

        whole = disk.write_atomic

        def full(path: Path, data: bytes) -> Path:
            if path.suffix == ".ipynb":
                raise disk.ResultError(f"{path}: the disk is full")
            return whole(path, data)

        monkeypatch.setattr(report, "write", broken)
        monkeypatch.setattr(disk, "write_atomic", full)
        path = write_suite(project, stage(a()))
        status, shown = run(path)
        assert status == 1
        assert "the disk is full" in shown and "RuntimeError: no ink" in shown and "dipair report" in shown
        out = project / "results" / "s"
        assert len(results.load_results(out)) == 1 and (out / "rows.jsonl").exists()

        # With room again the run, which did not finish, is made anew; --fresh takes everything away first.
        monkeypatch.undo()
        monkeypatch.setattr(report, "write", lambda folder: folder / "report.html")
        (out / "rows" / "01_a-other.m").mkdir()
        assert run(path, fresh=True)[0] == 0
        assert [p.name for p in (out / "rows").iterdir()] == [results.load_results(out)[0].run_id]

    def test_a_kernel_that_did_not_start_is_tried_again(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attempts = []

        def start(
            run: suite_file.Planned,
            made: suite_file.Suite,
            threads: int,
            scratch: Path,
            attempt: int = 1,
            cluster: Any = None,
        ) -> suite_runs.Active:
            attempts.append(attempt)
            folder = scratch / str(attempt)
            folder.mkdir()
            (folder / "log.txt").write_text("zmq: Address already in use", encoding="utf8")
            (folder / f"{run.key}.ipynb").write_bytes(run.path.read_bytes())
            process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({int(attempt < 3)})"])
            return suite_runs.Active(run, process, time.monotonic(), folder, threads, {}, attempt)

        monkeypatch.setattr(suite, "start", start)
        assert run(write_suite(project, stage({"notebook": "04_b"})))[0] == 0
        assert attempts == [1, 2, 3]


def command(path: Path, *options: str) -> subprocess.Popen:
    """A suite in a process of its own, as a person starts it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "dipair_lib.cli", "run", str(path), *options]
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)


def processes_of(project: Path) -> list[str]:
    """Command lines of living processes that work in the project (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            inside = os.readlink(folder / "cwd").startswith(str(project / "notebooks"))
        except OSError:
            continue
        if line and (inside or str(project / "notebooks") in line):
            found.append(line)
    return found


LOOPBACK = "0100007F"  # 127.0.0.1 as /proc/net/tcp writes it


def sockets_of(pid: int) -> set[str]:
    """Local and remote addresses of the TCP and UDP sockets of a process and all below it (Linux)."""
    found: set[str] = set()
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            found |= sockets_of(int(child))
    try:
        inodes = {
            os.readlink(fd)[8:-1]
            for fd in Path(f"/proc/{pid}/fd").iterdir()
            if os.readlink(fd).startswith("socket:")
        }
    except OSError:  # it ended meanwhile
        return found
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes:
                found |= {address for address in words[1:3] if not address.endswith(":0000")}
    return found


def wait_for(condition: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


# Runs in a process of its own, which loads the library once and forks a suite for each attempt; a run is forked too, in place of a kernel,
# which would take most of the time. Prints how many suites were killed, with all their runs, and how many came to their end.
KILLS = """
import json, os, random, shutil, signal, sys, tempfile, time
from pathlib import Path

from dipair_lib.evaluation import provenance, results, verification
from dipair_lib.reporting import report
from dipair_lib.runner import suite, suite_runs
from dipair_lib.system import disk

path, kills = Path(sys.argv[1]), int(sys.argv[2])
tempfile.tempdir = path.parent
provenance.device_name()  # loads torch


class Forked:
    def __init__(self, work):
        self.returncode, self.pid = None, os.fork()
        if not self.pid:
            work()
            os._exit(0)

    def poll(self, how=os.WNOHANG):
        if self.returncode is None and (done := os.waitpid(self.pid, how))[0]:
            self.returncode = done[1]
        return self.returncode

    def wait(self):
        return self.poll(0)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    terminate = kill


def start(run, made, threads, scratch, attempt=1, cluster=None):
    folder, inputs = Path(tempfile.mkdtemp(dir=scratch)), suite_runs.input_state(run, made)
    (folder / "log.txt").touch()

    def work():
        os.environ |= {"DIPAIR_RUN": run.key, "DIPAIR_SUITE": made.name}
        os.chdir(made.notebooks)
        content = json.loads(run.path.read_text())
        for cell in content["cells"][1:]:
            exec(cell["source"], dict(run.parameters))
        (folder / f"{run.key}.ipynb").write_text(json.dumps(content))

    return suite_runs.Active(run, Forked(work), time.monotonic(), folder, threads, inputs, attempt)


suite_runs.start = start
report.write = lambda folder: disk.write_atomic(folder / "report.html", b"whole")


def attempt(out, seconds):
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os._exit(suite.run_suite(path, jobs=2, out=out))
    os.setpgid(child, child)  # whoever is first: nothing is killed that is not ours
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (done := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.001)
    if not done[0]:
        os.killpg(child, signal.SIGKILL)
        done = os.waitpid(child, 0)
    return done[1]


def content(out):
    found = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    for name, data in found.items():
        if name.suffix == ".ipynb":  # when it was made and what it took are its own
            noted = json.loads(data)["metadata"]["dipair"]
            found[name] = [sorted(noted["inputs"]), noted["rows"]]
    return found


whole, torn = (path.parent.parent.parent / "results" / name for name in ("whole", "torn"))
begun = time.monotonic()
assert attempt(whole, 600) == 0
expected, took = content(whole), time.monotonic() - begun
assert len(results.load_results(whole)) == 6
random.seed(0)
killed = ended = 0
while killed < kills or not ended:
    status = attempt(torn, random.uniform(0, took / 2) if killed < kills else 600)
    killed += status == signal.SIGKILL
    assert status in (0, signal.SIGKILL), status
    if status == 0:
        ended += 1
        found = content(torn)
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        assert found == expected, [name for name in expected if found[name] != expected[name]]
        assert verification.verify(torn) == []
        shutil.rmtree(torn)
print(killed, ended)
"""


class TestInterruptions:
    def test_killed_three_times_at_random_the_rows_are_those_of_an_undisturbed_run(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report, "write", lambda folder: folder / "report.html")
        path = write_suite(
            project, stage(a(), required=True), stage({"notebook": "01_a", "grid": {"n": [2, 4, 5]}})
        )
        assert run(path, jobs=2, out=project / "results" / "undisturbed")[0] == 0
        out = project / "results" / "s"
        seed = time.time_ns()
        moments = random.Random(seed)
        for _ in range(3):
            process = command(path, "--jobs", "2")
            time.sleep(moments.uniform(1, 9))
            process.kill()
            process.communicate()
            if sys.platform == "linux":
                wait_for(lambda: processes_of(project) == [], 20)
        status, shown = run(path, jobs=2, out=out)
        assert status == 0, (seed, shown)
        # `out` is not part of a run's identity: the same ids in both folders.
        for pattern in ("rows/*/row.json", "rows/*/logits.npz", "notebooks/*"):
            undisturbed = sorted(
                p.parent.name + p.name for p in (project / "results" / "undisturbed").glob(pattern)
            )
            assert sorted(p.parent.name + p.name for p in out.glob(pattern)) == undisturbed, seed
        assert len(results.load_results(out)) == 4
        assert verification.verify(out) == []

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
    def test_killed_at_thirty_moments_the_files_are_those_of_an_undisturbed_run(self, project: Path) -> None:
        path = write_suite(
            project,
            stage(a(), required=True),
            stage({"notebook": "01_a", "grid": {"n": [2, 4, 5, 6]}}),
            stage(a(n=7, clock="all")),
        )
        done = subprocess.run(
            [sys.executable, "-c", KILLS, str(path), "30"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        killed, ended = map(int, done.stdout.split())
        assert killed == 30 and ended >= 1

    def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(self, project: Path) -> None:
        path = write_suite(project, stage(a()), stage(a(n=2, seconds=60)))
        process = command(path)
        notebooks = project / "results" / "s" / "notebooks"
        wait_for(lambda: list(notebooks.glob("*.ipynb")))
        if sys.platform == "linux":
            # The kernel's own ports on this machine, and nothing else, are opened by a suite.
            wait_for(lambda: sockets_of(process.pid))
            assert {address.split(":")[0] for address in sockets_of(process.pid)} == {LOOPBACK}
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=30)[1]
        assert process.returncode == 130
        assert "1 of 2 runs are finished and kept: the same command goes on" in shown
        if sys.platform == "linux":
            wait_for(lambda: processes_of(project) == [], 20)
        assert len(results.load_results(project / "results" / "s")) == 1


class TestSignals:
    @pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal")
    def test_what_was_ignored_at_the_start_stays_ignored(self) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a command
        try:
            with suite.signals_as_interrupt():
                os.kill(os.getpid(), signal.SIGHUP)  # the connection drops
                time.sleep(0.01)
                with pytest.raises(KeyboardInterrupt):
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(1)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            with suite.signals_as_interrupt(), pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(1)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        finally:
            signal.signal(signal.SIGHUP, before)


class TestDisplay:
    def test_data_that_changed_underneath_are_refused_and_named(self, tmp_path: Path) -> None:
        parameters = {
            "task": "pairs.csv",
            "fields": ["a"],
            "label": "y",
            "group": "",
            "kind": "",
            "max_train": 0,
        }
        row = schema.Result(
            run_id="03_dipair-1.m", created_utc="2026", notebook="03_dipair", suite="s", task="pairs.csv", split="test", model="m",
            family="dipair", metric="auc", data_sha256="a" * 64, parameters=disk.canonical_json(parameters),
        )  # fmt: skip
        results.save_result(tmp_path, row, np.zeros((2, 1)), np.zeros(2), np.arange(2))
        at = suite_checks.task_of(parameters)
        assert (
            at
            == suite_checks.task_of({**parameters, "teacher_score": ""})
            != suite_checks.task_of({**parameters, "label": "z"})
        )
        suite_checks.refuse_changed_data(tmp_path, {at: "a" * 64, "other": "b" * 64})
        with pytest.raises(
            SuiteError,
            match=r"task pairs.csv changed: 03_dipair-1.m .* aaaaaaaaaaaa, the data now has bbbbbbbbbbbb",
        ):
            suite_checks.refuse_changed_data(tmp_path, {at: "b" * 64})

    def test_time_left_comes_from_runs_of_the_same_notebook_that_are_most_alike(self, project: Path) -> None:
        made = suite_file.read_suite(write_suite(project, stage(a(), a(n=2)), stage({"notebook": "04_b"})))
        runs = suite_checks.with_keys(made, lambda _: None).runs
        first, second, other = (run.parameters for run in runs)
        display = suite_display.Display(3, io.StringIO())
        assert display.left([], runs) is None, "nothing is known yet"
        display.seen = [suite_display.Seen("04_b", other, 60.0)]
        assert display.left([], runs) is None, "two of three were never seen"
        display.seen += [
            suite_display.Seen("01_a", first, 10.0),
            suite_display.Seen("01_a", {**first, "seed": 7}, 90.0),
        ]
        assert display.left([], runs[:1]) == pytest.approx(10)
        display.seen += [suite_display.Seen("01_a", second, 20.0), suite_display.Seen("01_a", second, 22.0)]
        assert display.left([], runs) == pytest.approx(10 + 21 + 60)

    @pytest.mark.parametrize("live", [True, False])
    def test_texts_from_data_cannot_steer_the_terminal(self, project: Path, live: bool) -> None:
        stream = io.StringIO()
        stream.isatty = lambda: live  # type: ignore[method-assign]
        display = suite_display.Display(1, stream)
        evil = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202e\ud800"
        display.line(f"FAILED   {evil}")
        made = suite_file.read_suite(write_suite(project, stage(a())))
        run = dataclasses.replace(made.runs[0], label=f"\r{evil}\n{evil}")
        folder = project / "elsewhere"
        (folder / "progress.json").write_text(json.dumps({"what": evil, "done": 1, "total": 2}))
        display.drawn = -100.0
        display.draw([suite_runs.Active(run, None, 0.0, folder, 1, {})], [], 0)  # type: ignore[arg-type]
        shown = stream.getvalue().replace("\r\x1b[K", "")
        assert "FAILED" in shown and "50 %" in shown
        assert not re.search("[\0-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", shown)

    def test_minutes(self) -> None:
        assert [suite_display.minutes(s) for s in (0.4, 59.6, 185)] == ["0 s", "1:00 min", "3:05 min"]


class TestCommandLine:
    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory"
            ),
            RuntimeError("could not create a primitive"),  # oneDNN's way to say it
        ],
    )
    def test_memory_that_ran_out_is_said_in_words(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(suite, "run_suite", fail)
        assert cli.main(["run", "s.yaml"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("dipair: memory ran out (") and said.count("\n") == 1

    def test_ctrl_c_while_an_error_is_said_is_no_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "say", interrupt)
        assert cli.main(["run", "none.yaml"]) == 130

    def test_ctrl_c_that_torch_turned_into_an_error_is_ctrl_c(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def read_weights(*_: Any, **__: Any) -> None:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise ValueError("config.json: is damaged") from None

        monkeypatch.setattr(suite, "run_suite", read_weights)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            assert cli.main(["run", "s.yaml"]) == 130
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, before)
        assert capsys.readouterr().err == ""

    def test_another_error_of_the_program_is_no_lack_of_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(suite, "run_suite", lambda *_, **__: torch.zeros(2) @ torch.zeros(3))
        with pytest.raises(RuntimeError, match="size"):
            cli.main(["run", "s.yaml"])

    def test_a_mistake_is_one_line_and_status_2(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write_suite(project, stage(a()))
        assert cli.main(["run", str(path), "-p", "ratte=1"]) == 2
        assert capsys.readouterr().err == "dipair: -p: unknown parameter 'ratte'; did you mean rate?\n"
        assert cli.main(["run", str(path), "-p", "rate"]) == 2
        assert "expected NAME=VALUE" in capsys.readouterr().err
        assert cli.main(["verify", "nowhere"]) == 2

    def test_a_place_that_cannot_be_written_is_one_line_and_status_2(
        self, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_suite(project, stage(a()))
        (project / "file").touch()
        for arguments in (
            ["run", str(path), "--out", str(project / "file")],
            ["run", str(path), "--out", str(project / "file" / "below")],
            [
                "report",
                str(ROOT / "results" / "reference" / "demo"),
                "--out",
                str(project / "file" / "r.html"),
            ],
        ):
            assert cli.main(arguments) == 2
            said = capsys.readouterr().err
            assert said.startswith(f"dipair: {project / 'file'}") and said.count("\n") == 1

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(30, "Read-only file system", "/mnt/results")

        monkeypatch.setattr(suite, "run_suite", refuse)
        assert cli.main(["run", str(path)]) == 2
        assert capsys.readouterr().err == "dipair: /mnt/results: Read-only file system\n"

    def test_names_of_files_cannot_steer_the_terminal(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        evil = tmp_path / "\x1b[2J\u202e\udcff"
        assert cli.main(["report", str(evil)]) == 2
        (evil / "rows").mkdir(parents=True)
        (evil / "rows" / "\x1b[31mred").write_text("")
        assert cli.main(["verify", str(evil)]) == 1
        shown = "".join(capsys.readouterr())
        assert "no such results folder" in shown and "a foreign file among the rows" in shown
        assert not re.search("[\x1b\u202e\udcff]", shown)

    def test_verify_looks_into_collections_and_jobs(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verification, "verify", lambda folder: [])
        monkeypatch.setattr(job_parts, "verify", lambda folder: [f"{folder}: a part is damaged"])
        (tmp_path / "rows").mkdir()
        for name in ("left/manifest.json", "scores/job.json"):
            disk.write_atomic(tmp_path / "scale" / "run" / name, b"{")
        assert cli.main(["verify", str(tmp_path)]) == 1
        manifest, part = capsys.readouterr().out.splitlines()
        assert "manifest.json" in manifest and part.endswith("scores: a part is damaged")

    def test_verify_names_each_problem_and_fails(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["verify", str(tmp_path)]) == 1
        assert capsys.readouterr().out == f"{tmp_path}: no rows\n"


class TestOnRay:
    def test_runs_are_spread_and_clocks_stay_here(self, project: Path) -> None:
        path = write_suite(
            project,
            stage(
                a(n=1, seconds=0.5),
                a(n=2, seconds=0.5),
                a(n=3),
                {"notebook": "01_a", "parameters": {"n": 4, "clock": "all"}},
            ),
        )
        status, shown = run(path, jobs=2, ray="")
        assert status == 1 and "FAILED   01_a n=3" in shown and "n is three" in shown
        found = {entry["n"]: entry for entry in log(project)}
        assert sorted(found) == [1, 2, 3, 4]
        assert all(found[n]["DIPAIR_THREADS"] == found[n]["OMP_NUM_THREADS"] for n in (1, 2, 3))
        assert found[4]["begin"] > max(found[n]["end"] for n in (1, 2, 3))
        assert len(results.load_results(project / "results" / "s")) == 3
        assert not list((project / "results" / "s").glob(".dipair-*"))
        status, shown = run(path, jobs=2, ray="")
        assert shown.count("kept     01_a") == 3

    def test_a_command_that_is_stopped_ends(self, tmp_path: Path) -> None:
        from dipair_lib.scoring import on_ray

        with on_ray.joined("") as ray:
            cluster = on_ray.Cluster(ray)
            assert cluster.threads(1) == cluster.processors >= cluster.threads(2)
            code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
            one = cluster.start([sys.executable, "-c", code], {}, tmp_path / "log.txt", 1)
            other = cluster.start(
                [sys.executable, "-c", "import os; print(os.environ['A']); exit(3)"],
                {"A": "said"},
                tmp_path / "b.txt",
                1,
            )
            until = time.monotonic() + 60
            while time.monotonic() < until and (other.poll() is None or not (tmp_path / "pid").exists()):
                time.sleep(0.1)
            assert other.returncode == 3
            assert (tmp_path / "b.txt").read_text() == "said\n"
            assert one.poll() is None
            time.sleep(0.2)
            pid = int((tmp_path / "pid").read_text())
            one.terminate()
            while time.monotonic() < until and one.poll() is None:
                time.sleep(0.1)
            assert one.returncode == -9
            with pytest.raises(ProcessLookupError):
                while time.monotonic() < until:
                    os.kill(pid, 0)
                    time.sleep(0.1)
