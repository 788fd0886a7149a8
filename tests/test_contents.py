"""Runs told apart by what a file or folder holds: other weights under the same path are another run, the same elsewhere are not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dipair_lib.evaluation import provenance, results
from dipair_lib.runner import notebook_files, suite_checks, suite_file, suite_runs
from dipair_lib.system import contents, disk

ROOT = Path(__file__).parents[1]


def key(folder: Path | str = ".", **parameters: str) -> str:
    return notebook_files.run_key("02_bilstm", parameters, "data", "chip", folder)


class TestAModelsFolder:
    @pytest.fixture
    def model(self, tiny_backbone: str, tmp_path: Path) -> Path:
        return Path(shutil.copytree(tiny_backbone, tmp_path / "model"))

    def test_other_weights_in_the_same_folder_are_another_run(self, model: Path) -> None:
        before, file = key(backbone=str(model)), model / "model.safetensors"
        weights, size, times = load_file(file), file.stat().st_size, file.stat()
        next(iter(weights.values()))[0] += 1.0
        save_file(weights, file, {"format": "pt"})
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1))  # the least that a clock can tell
        assert file.stat().st_size == size
        assert key(backbone=str(model)) != before

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_so_is_another_configuration_or_tokenizer(self, model: Path, name: str) -> None:
        before = key(teacher=str(model))
        (model / name).write_text((model / name).read_text() + " ")
        assert key(teacher=str(model)) != before

    def test_a_part_of_it_in_a_folder_of_its_own_counts(self, model: Path) -> None:
        (model / "1_Pooling").mkdir()
        before = key(teacher=str(model))
        (model / "1_Pooling" / "config.json").write_text("{}")
        assert key(teacher=str(model)) != before

    def test_where_it_lies_and_what_nobody_loads_do_not_count(self, model: Path, tmp_path: Path) -> None:
        before = key(backbone=str(model))
        (model / "README.md").write_text("about it")
        (model / "pytorch_model.bin").write_bytes(b"\x80")
        moved = shutil.move(model, tmp_path / "elsewhere")
        assert key(backbone=str(moved)) == key(tmp_path, backbone="elsewhere") == before

    def test_a_folder_of_something_else_is_a_name(self, tmp_path: Path) -> None:
        assert contents.digest_of(tmp_path) is None
        (tmp_path / "owner").mkdir()
        assert key(tmp_path, backbone="owner") == key("/nowhere", backbone="owner")


class TestAFile:
    @pytest.mark.parametrize("parameter", ["vectors", "unlabelled", "warm_on"])
    def test_counts_by_its_bytes_and_not_by_its_path(self, tmp_path: Path, parameter: str) -> None:
        first, second = tmp_path / "a.txt", tmp_path / "b.txt"
        first.write_text("red 1 2")
        second.write_text("red 1 2")
        assert key(**{parameter: str(first)}) == key(tmp_path, **{parameter: "b.txt"})
        second.write_text("red 1 3")
        assert key(**{parameter: str(first)}) != key(**{parameter: str(second)})

    def test_its_hash_is_the_known_one(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"abc")
        known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert contents.digest_of(tmp_path / "a") == known

    def test_is_read_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.txt").write_text("red 1 2")
        before = contents.digest_of(tmp_path / "a.txt")
        monkeypatch.setattr(hashlib, "file_digest", None)
        assert contents.digest_of(tmp_path / "a.txt") == before

    def test_other_parameters_are_values(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        before = key(tagger="pattern", backbone="embedded", vectors="random")
        for name in ("pattern", "embedded", "random"):
            (tmp_path / name).write_text("a file that happens to be called so")
        assert key(tagger="pattern", backbone="embedded", vectors="random") == before

    def test_what_cannot_be_a_path_is_a_name(self) -> None:
        names = ["x" * 5000, "~nobody-of-this-name/model", "a\0b", "owner/model"]
        assert len({key(backbone=name) for name in names}) == 4

    def test_one_that_cannot_be_read_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.txt").write_text("red 1 2")

        def refuse(path: Path) -> str:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(contents, "file_digest", refuse)
        with pytest.raises(disk.ResultError, match=r"a\.txt: cannot be read \(Permission denied\)"):
            key(tmp_path, vectors="a.txt")


@pytest.mark.parametrize("folder", ["demo", "tang2019/sst2"])
def test_what_was_measured_keeps_its_key(folder: str) -> None:
    """Committed rows with the embedded backbone: their runs are called now what they were called then."""
    rows = [
        r
        for r in results.load_results(ROOT / "results" / "reference" / folder)
        if r.notebook in {"01_teacher", "02_bilstm"}
    ]
    assert len(rows) > 5
    for row in rows:
        found = notebook_files.run_key(
            row.notebook, json.loads(row.parameters), row.data_sha256 or "", row.device_name or ""
        )
        assert row.run_id.startswith(f"{found}.")


class TestASuite:
    """Plans with the key that the notebook itself would give, seen from the notebooks' folder."""

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        cell = {
            "cell_type": "code",
            "source": 'vectors = "random"  # of words',
            "metadata": {"tags": ["parameters"]},
        }
        (tmp_path / "notebooks").mkdir()
        (tmp_path / "notebooks" / "02_x.ipynb").write_text(json.dumps({"cells": [cell]}))
        (tmp_path / "notebooks" / "own.yaml").write_text("name: own\nstages: [{runs: [{notebook: 02_x}]}]")
        (tmp_path / "glove.txt").write_text("red 1 2")
        return tmp_path

    def planned(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> suite_file.Planned:
        """The one run, planned from the project's folder as a person types it."""
        monkeypatch.chdir(project)
        read = suite_file.read_suite("notebooks/own.yaml", {"vectors": "glove.txt"})
        return suite_checks.with_keys(read, lambda _: None).runs[0]

    def test_agrees_with_the_notebook(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = self.planned(project, monkeypatch)
        assert run.parameters["vectors"] == "../glove.txt"
        monkeypatch.chdir(project / "notebooks")
        assert run.key == notebook_files.run_key("02_x", run.parameters, "", provenance.device_name())

    def test_a_changed_file_is_not_finished(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        out = project / "out"
        done = suite_runs.executed(out, self.planned(project, monkeypatch).key)
        done.parent.mkdir(parents=True)
        done.write_text(json.dumps({"metadata": {"dipair": {"rows": [], "inputs": {}}}}))
        assert suite_runs.is_finished(out, self.planned(project, monkeypatch).key, {})
        (project / "glove.txt").write_text("red 1 2 and more")
        assert not suite_runs.is_finished(out, self.planned(project, monkeypatch).key, {})


class TestHashesOfWhatWasWritten:
    def test_a_results_folder_named_from_the_notebooks_is_as_good_as_any(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Notebooks say ``../results/demo``: a training that was stopped under a suite could not go on there."""
        (tmp_path / "notebooks").mkdir()
        monkeypatch.chdir(tmp_path / "notebooks")
        path = disk.write_hashed(Path("../results/demo/x.npz"), b"abc")
        assert contents.changed_files(Path("../results/demo/x.npz.sha256")) == []
        path.write_bytes(b"abd")
        (line,) = contents.changed_files(Path("../results/demo/x.npz.sha256"))
        assert line.startswith("../results/demo/x.npz: expected sha256 ba7816bf")

    @pytest.mark.parametrize("name", ["../x.npz", "/etc/hostname", "a/../../x.npz", ""])
    def test_a_name_that_leads_elsewhere_is_damage(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n", encoding="utf8")
        (line,) = contents.changed_files(tmp_path / "SHA256SUMS")
        assert "expected the hash of a file beside it" in line
