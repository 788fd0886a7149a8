"""Facts about what a process may use of its machine: processors that a quota pays for, locks without locks, a folder without a home."""

from __future__ import annotations

import errno
import fcntl
import getpass
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest

from dipair_lib.evaluation import provenance
from dipair_lib.models.heads import FFNNHead, SimilarityHead
from dipair_lib.runner import suite_file, suite_runs
from dipair_lib.scoring.tiles import compilation, native
from dipair_lib.system import machine


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_max", ".max")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


class TestCores:
    @pytest.mark.parametrize(
        ("given", "quota"),
        [
            ("max 100000", float("inf")),
            ("150000 100000", 1.5),
            ("50000 100000", 0.5),
            ("6400000 100000", 64.0),
        ],
    )
    def test_a_quota_of_version_2(self, given: str, quota: float, tmp_path: Path) -> None:
        root = write(tmp_path, proc__self__cgroup="0::/\n", sys__fs__cgroup__cpu_max=given + "\n")
        assert machine.quota(root) == quota
        assert machine.cores(root) == max(1, int(min(quota, machine.cores_bound())))

    def test_the_least_of_a_group_and_those_above_it(self, tmp_path: Path) -> None:
        root = write(tmp_path, proc__self__cgroup="0::/slurm/job/step\n", sys__fs__cgroup__slurm__job__cpu_max="300000 100000",
                     sys__fs__cgroup__slurm__cpu_max="800000 100000", sys__fs__cgroup__slurm__job__step__cpu_max="max 100000")  # fmt: skip
        assert machine.quota(root) == 3.0

    def test_a_quota_of_version_1(self, tmp_path: Path) -> None:
        group = tmp_path / "sys/fs/cgroup/cpu,cpuacct/docker/0a"
        group.mkdir(parents=True)
        (group / "cpu.cfs_quota_us").write_text("200000\n")
        (group / "cpu.cfs_period_us").write_text("100000\n")
        write(tmp_path, proc__self__cgroup="5:memory:/docker/0a\n4:cpu,cpuacct:/docker/0a\n")
        assert machine.quota(tmp_path) == 2.0
        (group / "cpu.cfs_quota_us").write_text("-1\n")
        assert machine.quota(tmp_path) == float("inf")

    def test_nothing_is_known_elsewhere(self, tmp_path: Path) -> None:
        assert machine.quota(tmp_path) == float("inf")

    def test_a_process_bound_to_one_processor_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As ``taskset`` binds it; the row says what it may use, on every kind of processor."""
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
        monkeypatch.setattr(provenance, "cpu_info", dict)
        assert machine.cores() == 1
        assert provenance.environment()["hardware"] == "1 cores"


class TestLocks:
    @pytest.fixture
    def without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(*_: object) -> None:
            raise OSError(errno.ENOSYS, "no locks")

        monkeypatch.setattr(fcntl, "flock", missing)
        machine.has_locks.cache_clear()

    def test_a_file_left_behind_locks_nothing(self, without: None, tmp_path: Path) -> None:
        (tmp_path / "x.lock").touch()
        with pytest.warns(UserWarning, match="its file system has no locks"):
            held = machine.lock(tmp_path / "x.lock")
        with held, pytest.raises(filelock.Timeout):
            machine.lock(tmp_path / "x.lock").acquire(timeout=0)
        with machine.lock(tmp_path / "x.lock").acquire(timeout=0):
            pass
        machine.has_locks.cache_clear()

    def test_a_holder_that_is_gone_holds_nothing(self, without: None, tmp_path: Path) -> None:
        holder = str(tmp_path / "x.lock.holder")
        code = f"import filelock, os; lock = filelock.SoftFileLock({holder!r}); lock.acquire(); os._exit(0)"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert (tmp_path / "x.lock.holder").exists()
        with pytest.warns(UserWarning), machine.lock(tmp_path / "x.lock").acquire(timeout=5):
            pass
        machine.has_locks.cache_clear()


class TestFolders:
    def test_without_a_home_or_a_writable_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine.own_temporary.cache_clear()
        monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path))

        def nobody() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", nobody)
        found = machine.writable()
        assert found == tmp_path / f"dipair-lab-{os.getuid()}"
        assert stat.S_IMODE(found.stat().st_mode) == 0o700
        assert machine.writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert machine.writable(tmp_path / "a" / "b") == found
        machine.own_temporary.cache_clear()

    def test_a_user_without_a_name_gets_a_home_and_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # of whom pwd knows nothing
        monkeypatch.setattr(machine, "own_temporary", lambda: tmp_path)
        monkeypatch.setattr(machine, "quota", lambda *_: 1.0)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
        machine.settle()
        assert Path.home() == tmp_path and getpass.getuser() == "user-4000000"
        assert os.environ.pop("OMP_NUM_THREADS") == "1"
        for name in ("LOGNAME", "HOME", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.pop(name, None)

    def test_a_folder_that_others_can_write_is_not_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Compiled code is loaded from it."""
        monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path))
        (tmp_path / f"dipair-lab-{os.getuid()}").mkdir()
        (tmp_path / f"dipair-lab-{os.getuid()}").chmod(0o777)
        machine.own_temporary.cache_clear()
        assert machine.own_temporary() != tmp_path / f"dipair-lab-{os.getuid()}"
        machine.own_temporary.cache_clear()


def test_without_a_compiler_the_reason_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    for cached in (compilation.library, compilation.failure):
        cached.cache_clear()
    monkeypatch.delenv("DIPAIR_NATIVE", raising=False)
    monkeypatch.setattr(compilation, "flags", lambda: frozenset(compilation.NEEDED))
    monkeypatch.setattr(compilation, "compiler", lambda: "g++")
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path)

    def fails(*_: object, **__: object) -> None:
        calls.append(1)
        raise subprocess.CalledProcessError(1, "g++")

    monkeypatch.setattr(compilation.subprocess, "run", fails)
    assert (
        "could not be compiled" in compilation.unavailable_reason()
        and "could not be compiled" in compilation.unavailable_reason()
    )
    assert calls == [1]
    for cached in (compilation.library, compilation.failure):
        cached.cache_clear()
    monkeypatch.setattr(compilation, "compiler", lambda: None)
    assert compilation.unavailable_reason() == "there is no C++ compiler (g++ or clang++)"
    said = {
        head: native.missing(SimpleNamespace(head=head))  # type: ignore[arg-type]
        for head in (FFNNHead([8, 8], [4, 4], 1), SimilarityHead("cosine", 1))
    }
    assert list(said.values()) == [compilation.unavailable_reason(), ""]  # a cosine has no compiled code


def test_braces_in_a_path_are_no_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """papermill fills in what stands in braces; and a kernel's files lie where the run does, whatever the home is."""
    from papermill.parameterize import parameterize_path

    folder = tmp_path / "a {b} ü 中"
    folder.mkdir()
    shutil.copy(Path(__file__).parents[1] / "notebooks" / "04_tradeoff.ipynb", folder)
    (folder / "own.yaml").write_text(
        "name: own\nstages: [{runs: [{notebook: 04_tradeoff}]}]", encoding="utf8"
    )
    started: dict[str, Any] = {}
    monkeypatch.setattr(
        suite_runs.subprocess, "Popen", lambda command, **k: started.update(k, command=command)
    )
    read = suite_file.read_suite(folder / "own.yaml", notebooks_dir=folder)
    suite_runs.start(read.runs[0], read, 1, folder)
    notebook, written = (parameterize_path(path, {}) for path in started["command"][3:5])
    assert notebook == str((folder / "04_tradeoff.ipynb").resolve())
    assert Path(written).parent.parent == folder
    assert Path(started["env"]["JUPYTER_RUNTIME_DIR"]).parent == Path(written).parent
