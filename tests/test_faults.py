"""Faults on purpose, a few of each kind: all of them are ``make test-faults``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FEW = ("--kills", "6", "--new", "0", "--times", "1", "--flips", "1", "--minutes", "2", "--seed", "1")


@pytest.mark.skipif(sys.platform != "linux", reason="kills its own processes by Linux's means")
def test_after_kills_full_disks_and_changed_bytes_all_is_as_undisturbed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "faults", *FEW, "--only", "^(encode|jobs)$"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "faults.md")],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = (tmp_path / "faults.md").read_text(encoding="utf8")
    for fault in (
        "signal, forked",
        "full disk",
        "read-only folder",
        "clock jumping back",
        "no locks",
        "memory limit",
        "a changed byte",
    ):
        assert f"| {fault}" in said
