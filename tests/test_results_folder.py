"""Nothing in a results folder is lost: checks come first, --fresh moves aside, a run's earlier result stays until it is replaced."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from test_suite import PARAMETERS, WORK, a, project, run, stage, write_notebook, write_suite

from dipair_lib.evaluation import architecture_rows, results, results_folder, verification
from dipair_lib.reporting import report
from dipair_lib.runner import suite, suite_file, suite_runs
from dipair_lib.runner.suite_file import SuiteError
from dipair_lib.system import disk
from dipair_lib.system.disk import ResultError

assert project  # a fixture

ON_DATA = PARAMETERS + 'task = "own.csv"  # data\nlabel = ""  # its labels\nfields = []  # its texts\n'
ON_DATA += 'teacher = ""  # a model\nunlabelled = ""  # further pairs\nhead = "ffnn"  # of the student\n'


class Done:
    """A process that has ended."""

    def __init__(self, returncode: int) -> None:
        self.returncode = returncode

    def poll(self) -> int:
        return self.returncode

    def wait(self) -> int:
        return self.returncode

    def terminate(self) -> None: ...
    def kill(self) -> None: ...


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are made here and now, without a kernel; a report is a file."""

    def start(
        planned: suite_file.Planned,
        made: suite_file.Suite,
        threads: int,
        scratch: Path,
        attempt: int = 1,
        cluster: Any = None,
    ) -> suite_runs.Active:
        folder, inputs = Path(tempfile.mkdtemp(dir=scratch)), suite_runs.input_state(planned, made)
        content, error = json.loads(planned.path.read_text(encoding="utf8")), ""
        monkeypatch.setenv("DIPAIR_RUN", planned.key)
        try:
            with contextlib.chdir(made.notebooks):
                exec(content["cells"][1]["source"], dict(planned.parameters))
        except ValueError as failed:
            error = str(failed)
        (folder / "log.txt").write_text(error)
        (folder / f"{planned.key}.ipynb").write_text(json.dumps(content))
        return suite_runs.Active(
            planned, Done(int(bool(error))), time.monotonic(), folder, threads, inputs, attempt
        )  # type: ignore[arg-type]

    monkeypatch.setattr(suite, "start", start)
    monkeypatch.setattr(report, "write", lambda folder: disk.write_atomic(folder / "report.html", b"page"))


@pytest.fixture
def demo(project: Path, instant: None) -> Path:
    """A finished suite on a file of data; its results folder."""
    write_notebook(project / "notebooks" / "01_a.ipynb", PARAMETERS, WORK)
    write_notebook(project / "notebooks" / "03_dipair.ipynb", ON_DATA, WORK)
    rows = "".join(f"query {i // 4},text {i},{i % 2}\n" for i in range(200))
    (project / "notebooks" / "own.csv").write_text(f"query,text,label\n{rows}")
    (project / "elsewhere" / "typed.csv").write_text(f"query,text,label\n{rows}")
    path = write_suite(project, stage({"notebook": "03_dipair", "parameters": {"fields": ["query", "text"]}}))
    assert run(path)[0] == 0
    return project / "results" / "s"


def the_suite(out: Path) -> Path:
    return out.parents[1] / "notebooks" / "suites" / "s.yaml"


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for lock and log."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {".lock", "log.jsonl"}
    }


class TestChecksComeFirst:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("task=none.csv", r"none\.csv"),
            ("label=relevance", "relevance"),
            ("fields=[query,txt]", "txt"),
            ("teacher=../models/none", "teacher"),
            ("unlabelled=none.csv", r"none\.csv"),
            ("unlabelled=typed.csv", "no row is left"),
            ("head=fnn", r"03_dipair .*head: expected one of .*'ffnn', .*but got 'fnn'"),
            ("n=many", r"-p n, for .*expected int"),
        ],
    )
    def test_a_mistake_in_what_is_asked_takes_nothing_away(
        self, demo: Path, override: str, message: str
    ) -> None:
        before = content(demo.parents[1])
        assert len(results.load_results(demo)) == 1
        with pytest.raises(ValueError, match=message):
            run(the_suite(demo), override, fresh=True)
        with pytest.raises(ValueError, match=message):
            run(the_suite(demo), override, out=demo.parent / "new")
        assert content(demo.parents[1]) == before and not (demo.parent / "new").exists()

    def test_a_folder_of_something_else_is_left_alone(self, demo: Path) -> None:
        other = demo.parent / "thesis"
        for name in ("notebooks/mine.ipynb", "rows/a.txt", "teacher/lesson.txt", "report.html", "rows.jsonl"):
            (other / name).parent.mkdir(parents=True, exist_ok=True)
            (other / name).write_text("mine")
        before = content(other)
        for fresh in (True, False):
            with pytest.raises(
                ResultError, match=r"is no results folder: it holds notebooks, report.html, rows, \.\.\."
            ):
                run(the_suite(demo), out=other, fresh=fresh)
        assert content(other) == before
        with pytest.raises(ResultError, match="is a file"):
            run(the_suite(demo), out=other / "report.html")

    @pytest.mark.parametrize(
        "out", ["/etc", "../elsewhere", "results/../../elsewhere", "~/results", "C:\\x", "\\\\there\\x"]
    )
    def test_a_suite_names_no_folder_outside_its_project(self, demo: Path, out: str) -> None:
        path = write_suite(demo.parents[1], stage(a()), out=out)
        with pytest.raises(
            SuiteError, match="out: expected a folder in the project, such as results/mine, but got"
        ):
            suite_file.read_suite(path)
        assert (
            suite_file.read_suite(path, out=demo.parents[2] / "anywhere").out == demo.parents[2] / "anywhere"
        )
        (demo.parents[1] / "link").symlink_to(demo.parents[2])  # which the person made
        assert suite_file.read_suite(write_suite(demo.parents[1], stage(a()), out="link/x")).out.name == "x"

    def test_a_folder_that_cannot_be_written_is_said_in_words(
        self, demo: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(
            SuiteError, match=r"new: cannot be written \(Permission denied\): name another folder"
        ):
            run(the_suite(demo), out=demo.parent / "new")
        with pytest.raises(ResultError, match=r"x\.html: could not be written"):
            disk.write_atomic(demo / "report.html" / "x.html", b"page")


class TestFresh:
    def test_earlier_results_stay_beside_until_there_is_a_new_row(self, demo: Path) -> None:
        before, path = content(demo), the_suite(demo)
        (demo / "notes.txt").write_text("mine")
        status, shown = run(path, "n=3", fresh=True)  # fails
        aside = demo.with_name("s.before")
        assert status == 1 and f"moved    the earlier results to {aside}" in shown
        assert f"note: there is no new row yet: the results from before --fresh are still in {aside}" in shown
        moved = content(aside)
        assert {name: moved[name] for name in before if name != ".dipair"} == {
            name: data for name, data in before.items() if name != ".dipair"
        }
        assert verification.verify(aside) == [] and len(results.load_results(aside)) == 1
        assert (demo / "notes.txt").read_text() == "mine" and results.load_results(demo) == []
        status, shown = run(path, "n=3", fresh=True)
        assert demo.with_name("s.before-2").is_dir() and aside.is_dir()
        status, shown = run(path, "n=4")  # goes on: now there is a row
        assert status == 0 and shown.count("removed  ") == 2
        assert sorted(p.name for p in demo.parent.iterdir()) == ["s"]
        assert [row.model for row in results.load_results(demo)] == ["m 4"]

    def test_killed_before_they_were_removed_they_go_the_next_time(self, demo: Path) -> None:
        aside = results_folder.set_aside(demo)
        assert aside is not None and not (demo / "rows").exists()
        assert run(the_suite(demo))[0] == 0
        disk.write_atomic(aside / ".dipair", b"")  # nobody's
        assert results_folder.aside_of(demo) == []
        said = results_folder.ASIDE.format(name=demo.name)
        disk.write_atomic(aside / ".dipair", f"{results_folder.SAYS}\n{said}\n".encode())
        (aside / "mine.txt").write_text("mine")
        _, shown = run(the_suite(demo))
        assert "kept     03_dipair" in shown and f"removed  {aside}" in shown
        assert [p.name for p in aside.iterdir()] == ["mine.txt"]

    def test_what_cannot_be_moved_is_put_back(self, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before, rename = content(demo.parent), os.rename

        def refuse(source: Path, target: Path) -> None:
            if Path(source) == demo / "rows":
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            rename(source, target)

        monkeypatch.setattr(os, "rename", refuse)
        with pytest.raises(ResultError, match=r"could not be moved to .*cross-device.*move them yourself"):
            run(the_suite(demo), fresh=True)
        assert content(demo.parent) == before

    def test_a_folder_of_an_earlier_version_works_is_marked_and_only_then_begun_anew(
        self, demo: Path
    ) -> None:
        (demo / ".dipair").unlink()
        before = content(demo)
        with pytest.raises(
            ResultError, match=r"--fresh takes away only .*the same command without --fresh marks it"
        ):
            run(the_suite(demo), fresh=True)
        assert content(demo) == before
        (demo / "notebooks" / "mine.ipynb").write_text("mine")
        _, shown = run(the_suite(demo))
        assert "kept     03_dipair" in shown and not (demo / ".dipair").exists(), "it holds more than results"
        with pytest.raises(ResultError, match=r"also holds files of other names than ours"):
            run(the_suite(demo), fresh=True)
        (demo / "notebooks" / "mine.ipynb").unlink()
        assert run(the_suite(demo))[0] == 0 and (demo / ".dipair").exists()
        assert run(the_suite(demo), "n=7", fresh=True)[0] == 0
        assert [row.model for row in results.load_results(demo)] == ["m 7"]

    def test_one_that_was_stopped_before_its_first_row_and_a_measurement_alone_are_results(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("rows", "notebooks"):
            (tmp_path / "a" / name).mkdir(parents=True)
        with pytest.raises(ResultError, match="is no results folder"):
            results_folder.check(tmp_path / "a", fresh=False)
        (tmp_path / "a" / ".lock").touch()
        assert results_folder.mark_ours(tmp_path / "a") and results_folder.is_marked(tmp_path / "a")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "architectures.json").write_text("{}")
        assert not results_folder.mark_ours(tmp_path / "b"), "of another kind"
        monkeypatch.setattr(architecture_rows, "load", lambda folder: {"schema": 1})
        assert results_folder.mark_ours(tmp_path / "b") and results_folder.is_marked(tmp_path / "b")


class TestReplaced:
    def test_a_finished_run_whose_inputs_changed_stays_until_its_replacement_is_finished(
        self, project: Path, instant: None
    ) -> None:
        write_notebook(project / "notebooks" / "02_b.ipynb", PARAMETERS, f"fails = False\n{WORK}")
        student = {"notebook": "02_b", "parameters": {"n": 2}}
        path = write_suite(project, stage(a(), required=True), stage(student))
        assert run(path)[0] == 0
        out = project / "results" / "s"
        first = {name: data for name, data in content(out).items() if "02_b" in name}
        assert len(first) == 4, "row, logits, hashes, notebook"
        # The teacher is made anew, and then the student fails: its earlier result is kept, apart from the rows.
        next((out / "notebooks").glob("01_a-*.ipynb")).unlink()
        write_notebook(project / "notebooks" / "02_b.ipynb", PARAMETERS, 'raise ValueError("no memory")')
        status, shown = run(path)
        (kept,) = (out / "replaced").iterdir()
        assert status == 1 and f"what it was to replace is kept in {kept}" in shown
        found = content(kept)
        assert sorted(found.values()) == sorted(first.values()) and len(results.load_results(kept)) == 1
        assert [row.notebook for row in results.load_results(out)] == ["01_a"]
        assert verification.verify(out) == []
        run(path)
        assert content(kept) == found, "a second failure leaves it too"
        write_notebook(project / "notebooks" / "02_b.ipynb", PARAMETERS, WORK)
        assert run(path)[0] == 0
        assert not (out / "replaced").exists() and len(results.load_results(out)) == 2

    def test_killed_while_it_moves_the_rest_follows(
        self, project: Path, instant: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_suite(project, stage(a()))
        assert run(path)[0] == 0
        out = project / "results" / "s"
        (key,) = (p.stem for p in (out / "notebooks").glob("*.ipynb"))
        row = out / "rows" / f"{key}.m"
        (out / "rows" / f"{key}.n").mkdir()
        replace = os.replace

        def dies(source: Path, target: Path) -> None:
            if Path(source).name == f"{key}.n":
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            results_folder.make_way(out, key, True)
        monkeypatch.setattr(os, "replace", replace)
        assert not row.exists()
        assert run(path)[0] == 0
        assert row.exists() and not (out / "replaced").exists()


class TestHowAProcessEnds:
    def test_who_was_killed_is_said(self, tmp_path: Path) -> None:
        log = tmp_path / "log.txt"
        log.write_text("Executing notebook with kernel: python3\n")
        assert suite_runs.error_line(None, log, 1) == "Executing notebook with kernel: python3"
        assert (
            "it was killed by signal 9 from outside, most likely because memory ran out"
            in suite_runs.error_line(None, log, -9)
        )
        assert "its kernel was killed from outside, most likely because memory" in suite_runs.error_line(
            None, log, 138
        )
