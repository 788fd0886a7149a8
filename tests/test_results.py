"""Rows are stored whole or not at all, read strictly, and every quality number follows from the stored logits."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dipair_lib.data import loading
from dipair_lib.evaluation import bootstrap, metrics, provenance, results, schema, verification
from dipair_lib.evaluation.schema import Result
from dipair_lib.runner import notebook_files, notebook_run
from dipair_lib.system import contents, disk
from dipair_lib.system.disk import ResultError

LABELS = np.array([0, 1, 0, 1, 0, 1, 1, 0])
GROUPS = np.array([0, 0, 1, 1, 2, 2, 3, 3])
STUDENT = np.array([[0.1], [0.4], [0.5], [0.3], [-2.0], [1.0], [2.0], [-1.0]], np.float32)
TEACHER = np.array([[-1.0], [1.0], [-0.5], [0.2], [-2.0], [1.0], [-3.0], [-1.0]], np.float32)


def row(run_id: str = "03_dipair-0123456789.ffnn-k8", **fields: Any) -> Result:
    filled: dict[str, Any] = {
        "created_utc": "2026-01-02T03:04:05+00:00",
        "notebook": run_id.split("-")[0],
        "suite": "demo",
        "task": "pairs",
        "split": "test",
        "data_sha256": "d" * 64,
        "n_examples": len(LABELS),
        "model": "FFNN k=8",
        "family": "dipair",
        "metric": "auc",
    }
    return Result(run_id=run_id, **{**filled, **fields})


def measured(run_id: str, logits: np.ndarray, teacher: np.ndarray | None = None, **fields: Any) -> Result:
    """A row whose quality group is what the logits give."""
    numbers: dict[str, Any] = bootstrap.interval(
        "auc", LABELS, logits, GROUPS, teacher_logits=teacher, n_boot=50
    )
    others = disk.canonical_json(metrics.evaluate(["accuracy"], LABELS, logits))
    return row(run_id, **numbers, metrics=others, **fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder with a teacher and a student."""
    teacher = measured("01_teacher-aaaaaaaaaa.teacher", TEACHER, TEACHER, family="cross-encoder")
    student = measured(
        "03_dipair-bbbbbbbbbb.ffnn", STUDENT, TEACHER, teacher_run=teacher.run_id, combine_s_per_pair=1e-6
    )
    results.save_result(tmp_path, teacher, TEACHER, LABELS, GROUPS)
    results.save_result(tmp_path, student, STUDENT, LABELS, GROUPS)
    return tmp_path


def row_file(folder: Path, run: str = "03_dipair-bbbbbbbbbb.ffnn") -> Path:
    return folder / "rows" / run / "row.json"


def written(folder: Path) -> list[Path]:
    """A results folder with one file of every kind that is read back later; the files."""
    from safetensors.numpy import save_file

    from dipair_lib.training import save_teacher_logits

    run = "01_teacher-aaaaaaaaaa.teacher"
    model = results.row_folder(folder, run) / "model"
    (model / "tokenizer").mkdir(parents=True)
    (model / "tokenizer" / "tokenizer.json").write_text("{}")
    save_file({"w": np.arange(4.0)}, model / "model.safetensors")
    hashes = [contents.read_digest(model / n) for n in ("model.safetensors", "tokenizer/tokenizer.json")]
    config = {"kind": "tfidf", "sha256": hashes[0], "tokenizer": {"tokenizer.json": hashes[1]}}
    (model / "config.json").write_text(json.dumps(config))
    results.save_result(
        folder, measured(run, TEACHER, TEACHER, family="cross-encoder"), TEACHER, LABELS, GROUPS
    )
    made = [results.row_folder(folder, run) / "row.json", results.row_folder(folder, run) / "logits.npz"]
    made += [model / "config.json", model / "model.safetensors", model / "tokenizer" / "tokenizer.json"]
    for name in (f"{run}.npz", f"{run}/0123.npz", f"{run}/0123.features.npz"):
        made.append(save_teacher_logits(folder / "teacher" / name, "f", {"train": TEACHER}))
    made.append(disk.write_hashed(folder / "encoded" / "0123456789abcdef.npy", b"half"))
    made.append(disk.write_hashed(folder / "unfinished" / run / "0123.safetensors", b"state"))
    return [*made, results.write_rows(folder)]


class TestRoundTrip:
    def test_what_is_loaded_is_what_was_saved(self, folder: Path) -> None:
        teacher, student = results.load_results(folder)
        assert (teacher.family, student.family) == ("cross-encoder", "dipair")
        assert student == measured(
            student.run_id, STUDENT, TEACHER, teacher_run=teacher.run_id, combine_s_per_pair=1e-6
        )
        stored = results.load_logits(folder, student.run_id)
        assert stored.logits.dtype == np.float32
        assert np.array_equal(stored.logits, STUDENT)
        assert np.array_equal(stored.labels, LABELS)
        assert np.array_equal(stored.groups, GROUPS)

    def test_missing_is_null_and_numpy_numbers_become_plain(self) -> None:
        values = json.loads(row(quality=np.float64("nan"), params_total=np.int64(7), retained=None).to_json())
        assert (values["quality"], values["params_total"], values["retained"]) == (None, 7, None)
        assert list(values) == [field.name for field in dataclasses.fields(Result)]

    def test_jsonl_holds_the_same_rows(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        shared = tmp_path_factory.mktemp("reference")
        (shared / "rows.jsonl").write_bytes(results.write_rows(folder).read_bytes())
        assert results.load_results(shared) == results.load_results(folder)

    def test_a_name_with_odd_line_ends_stays_on_its_line(self, tmp_path: Path) -> None:
        odd = row(model="FFNN\u2028k=8\x85", data_notes='{"source":"a\u2029b"}')
        results.save_result(tmp_path, odd, STUDENT, LABELS, GROUPS)
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "rows.jsonl").write_bytes(results.write_rows(tmp_path).read_bytes())
        assert results.load_results(tmp_path / "shared") == [odd]

    def test_only_the_speed_group_is_filled_later(self, folder: Path) -> None:
        run_id = "03_dipair-bbbbbbbbbb.ffnn"
        before = results.load_result(folder, run_id)
        after = results.update_result(folder, run_id, encode_s_per_text=0.25, noisy=False)
        assert after == dataclasses.replace(before, encode_s_per_text=0.25, noisy=False)
        assert results.load_result(folder, run_id) == after
        with pytest.raises(ResultError, match=r"speed group.*quality"):
            results.update_result(folder, run_id, quality=1.0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"quality": "0.9"}, "quality: expected float or null, but got '0.9'"),
            ({"n_train": 1.5}, "n_train: expected int or null, but got 1.5"),
            ({"n_train": True}, "n_train: expected int or null, but got True"),
            ({"quality": float("inf")}, "quality: expected a finite number"),
            ({"model": None}, "model: expected str, but got None"),
            ({"family": "bert"}, "family: expected one of constant, .* but got 'bert'"),
            ({"family": "published"}, "source: expected where"),
            ({"run_id": "../elsewhere"}, "run_id: expected letters"),
            ({"schema": 6}, "schema: expected 5, but got 6"),
            (
                {"combine_s_per_pair": 0.0},
                "combine_s_per_pair: expected a number from 1e-18 to 1e.18, but got 0.0",
            ),
            ({"n_examples": -1}, "n_examples: expected a number from 0 to 1e.18, but got -1"),
            ({"quality": 10**400}, "quality: expected a finite number"),
            ({"n_boot": 10**6}, "n_boot: expected at most 100,000, but got 1000000"),
            ({"model": "\ud800"}, "model: expected text, but got an unpaired surrogate"),
            ({"parameters": "[]"}, r"parameters: expected a JSON object as text, but got '\[\]'"),
            ({"metrics": '{"f1": "x"}'}, "metrics, f1: expected float or null, but got 'x'"),
        ],
    )
    def test_a_wrong_field_is_named(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ResultError, match=message):
            row(**fields)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: text[: len(text) // 2], "cut off or not JSON"),
            (lambda text: "[" * 100_000, "cut off or not JSON"),
            (lambda text: text.replace('"alpha": null', f'"alpha": {"9" * 5000}'), "cut off or not JSON"),
            (lambda text: "", "cut off or not JSON"),
            (lambda text: "[]", "expected one JSON object"),
            (lambda text: text.replace('"split"', '"spilt"'), "missing field split"),
            (lambda text: text.replace("{", '{"colour": 1, ', 1), "unknown field colour"),
            (lambda text: text.replace('"alpha": null', '"alpha": NaN'), "NaN is not a number"),
            (lambda text: text.replace('"alpha": null', '"alpha": "x"'), "alpha: expected float or null"),
            (lambda text: text.replace('"schema": 5', '"schema": 9'), "schema: expected 5, but got 9"),
            (
                lambda text: text.replace("bbbbbbbbbb", "cccccccccc"),
                "run_id: expected 03_dipair-bbbbbbbbbb.ffnn",
            ),
        ],
    )
    def test_a_damaged_row_names_file_and_field(self, folder: Path, change: Any, message: str) -> None:
        path = row_file(folder)
        path.write_text(change(path.read_text(encoding="utf8")), encoding="utf8")
        with pytest.raises(ResultError, match=message) as caught:
            results.load_results(folder)
        assert str(path) in str(caught.value)
        with pytest.warns(UserWarning, match="03_dipair-bbbbbbbbbb"):
            rows = results.load_results(folder, damaged="warn")
        assert [r.notebook for r in rows] == ["01_teacher"]

    def test_damaged_logits_are_named(self, folder: Path) -> None:
        path = row_file(folder).with_name("logits.npz")
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(ResultError, match=r"logits\.npz: is cut off"):
            results.load_logits(folder, path.parent.name)

    def test_a_spoiled_byte_within_logits_is_named(self, folder: Path) -> None:
        path = row_file(folder).with_name("logits.npz")
        data = path.read_bytes()
        # In headers, names and compressed numbers: zipfile, zlib and NumPy each have errors of their own.
        for at in range(0, len(data), 7):
            path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
            with contextlib.suppress(ResultError):
                results.load_logits(folder, path.parent.name)
        np.save(path.with_suffix(".npy"), STUDENT)
        path.with_suffix(".npy").replace(path)
        with pytest.raises(ResultError, match="not a logits file"):
            results.load_logits(folder, path.parent.name)

    def test_logits_that_would_unpack_to_gigabytes_are_not_read(self, folder: Path) -> None:
        path = row_file(folder).with_name("logits.npz")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in (("labels", LABELS), ("groups", GROUPS), ("split", np.array("test"))):
                with archive.open(f"{name}.npy", "w") as file:
                    np.save(file, array)
            with archive.open("logits.npy", "w") as file:
                shape = {"descr": "<f4", "fortran_order": False, "shape": (8, 1 << 26)}
                np.lib.format.write_array_header_1_0(file, shape)
                for _ in range(8):
                    file.write(bytes(1 << 20))
        # The header says 2 GB: whatever the file holds of them, not a byte is unpacked.
        with pytest.raises(ResultError, match="is not of the shape"):
            results.load_logits(folder, path.parent.name)
        np.savez_compressed(path, logits=np.zeros((1 << 20, 1), np.float32), labels=LABELS, groups=GROUPS)
        with pytest.raises(ResultError, match="logits: expected 8 rows, one per example"):
            results.load_logits(folder, path.parent.name)
        shapes = {"logits": ((8, 1 << 27), np.dtype("f4"))}
        with pytest.raises(ValueError, match="unpacks to 4,294,967,296 bytes"):
            schema.check_shapes(shapes, 8)

    def test_pickled_logits_are_not_read(self, folder: Path) -> None:
        path = row_file(folder).with_name("logits.npz")
        np.savez(
            path, logits=np.array([{}], dtype=object), labels=LABELS, groups=GROUPS, split=np.array("test")
        )
        with pytest.raises(ResultError, match="not a logits file"):
            results.load_logits(folder, path.parent.name)

    @pytest.mark.parametrize(
        ("logits", "labels", "message"),
        [
            (STUDENT[:, 0], LABELS, r"logits: expected shape \[n, outputs\], but got \[8\]"),
            (STUDENT[:7], LABELS, "logits: expected 8 rows, one per example, but got 7"),
            (STUDENT, LABELS[:7], "labels: expected 8 rows"),
            (
                np.where(STUDENT > 1.5, np.nan, STUDENT),
                LABELS,
                "1 of 8 rows are not finite, the first is row 6",
            ),
        ],
    )
    def test_wrong_logits_are_not_stored(
        self, tmp_path: Path, logits: np.ndarray, labels: np.ndarray, message: str
    ) -> None:
        with pytest.raises(ResultError, match=message):
            results.save_result(tmp_path, row(), logits, labels, GROUPS)
        assert not (tmp_path / "rows").exists()

    def test_no_folder_says_what_to_run(self, tmp_path: Path) -> None:
        with pytest.raises(ResultError, match="run a suite first"):
            results.load_results(tmp_path / "nothing")


class TestAtomicWrites:
    def test_a_full_disk_loses_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = disk.write_atomic(tmp_path / "a.json", b"old")

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ResultError, match=r"a\.json: the disk is full"):
            disk.write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["a.json"]

    def test_killed_while_writing_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = disk.write_atomic(tmp_path / "a.json", b"old")
        program = (
            "import os, pathlib, sys\nfrom dipair_lib.system import disk\n"
            "os.replace = lambda *_: os._exit(9)\n"
            "disk.write_atomic(pathlib.Path(sys.argv[1]), b'new')"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[1], check=False
        )
        assert ended.returncode == 9
        assert path.read_bytes() == b"old"
        assert any("interrupted write" in line for line in verification.foreign_files(tmp_path))

    def test_a_row_without_its_logits_cannot_exist(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[str] = []
        whole = disk.write_atomic

        def noted(path: Path, data: bytes) -> Path:
            written.append(path.name)
            return whole(path, data)

        monkeypatch.setattr(disk, "write_atomic", noted)
        results.save_result(tmp_path, row(), STUDENT, LABELS, GROUPS)
        assert [name for name in written if name != "SHA256SUMS"] == ["logits.npz", "row.json"]


class TestVerify:
    def test_nothing_to_say_about_a_sound_folder(self, folder: Path) -> None:
        assert verification.verify(folder) == []

    @pytest.mark.parametrize("name", ["quality", "quality_low", "retained", "retained_high"])
    def test_a_changed_number_is_named(self, folder: Path, name: str) -> None:
        path = row_file(folder)
        values = json.loads(path.read_text(encoding="utf8"))
        values[name] += 0.001
        path.write_text(json.dumps(values), encoding="utf8")
        changed, problem = verification.verify(folder)
        assert f"{path}: expected sha256" in changed and f"{path}: {name}: the row says" in problem

    def test_a_row_with_a_changed_digit_is_not_read(self, folder: Path) -> None:
        path = row_file(folder)
        text = path.read_text(encoding="utf8")
        path.write_text(text.replace('"schema":', '"schema": '), encoding="utf8")  # still a whole row
        with pytest.raises(ResultError, match=r"row\.json: its sha256 is not the one in SHA256SUMS"):
            results.load_result(folder, path.parent.name)
        with pytest.warns(UserWarning, match="row left out"):
            rows = results.load_results(folder, damaged="warn")
        assert path.parent.name not in [row.run_id for row in rows]
        path.with_name("SHA256SUMS").unlink()  # as an earlier version left it
        assert results.load_result(folder, path.parent.name).run_id == path.parent.name

    def test_a_changed_secondary_metric_is_named(self, folder: Path) -> None:
        path = row_file(folder)
        values = json.loads(path.read_text(encoding="utf8"))
        values["metrics"] = '{"accuracy":0.99}'
        path.write_text(json.dumps(values), encoding="utf8")
        assert "accuracy: the row says 0.99" in verification.verify(folder)[-1]

    def test_exchanged_logits_are_noticed(self, folder: Path) -> None:
        row_file(folder).with_name("logits.npz").write_bytes(
            row_file(folder, "01_teacher-aaaaaaaaaa.teacher").with_name("logits.npz").read_bytes()
        )
        assert any("quality: the row says" in line for line in verification.verify(folder))

    def test_foreign_files_and_cut_off_weights_are_named(self, folder: Path) -> None:
        (folder / "thesis.doc").touch()
        (folder / "rows" / "notes.txt").touch()
        row_file(folder).with_name("x.pkl").touch()
        weights = row_file(folder).with_name("model") / "model.safetensors"
        weights.parent.mkdir()
        weights.write_bytes(b"\xff\0\0\0\0\0\0\0{")
        problems = verification.verify(folder)
        assert [Path(line.split(": ")[0]).name for line in problems] == [
            "x.pkl",
            "notes.txt",
            "thesis.doc",
            "model.safetensors",
        ]

    def test_one_changed_byte_is_named_in_every_kind_of_file_that_is_read_back(self, tmp_path: Path) -> None:
        kept = written(tmp_path)
        assert verification.verify(tmp_path) == []
        assert verification.hashed_files(tmp_path) == (len(kept), 0)
        for path in kept:
            whole = path.read_bytes()
            for at in np.random.default_rng(0).integers(len(whole), size=3):
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
                assert any(
                    line.startswith(f"{path}: expected sha256") for line in verification.verify(tmp_path)
                ), path
            path.write_bytes(whole)
        for path in verification.sums_in(tmp_path):  # nor does a changed hash pass for a whole file
            whole = path.read_bytes()
            for at in (0, 63, 64, 66, len(whole) - 1):
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
                assert verification.verify(tmp_path) != [], (path, at)
            path.write_bytes(whole)
        assert verification.verify(tmp_path) == []

    def test_weights_of_earlier_versions_have_the_hash_that_their_config_names(self, tmp_path: Path) -> None:
        kept = written(tmp_path)
        for sums in verification.sums_in(tmp_path):
            sums.unlink()
        assert verification.verify(tmp_path) == []
        assert verification.hashed_files(tmp_path) == (0, len(kept))
        for name in ("model.safetensors", "tokenizer.json"):
            (path,) = (path for path in kept if path.name == name)
            whole = path.read_bytes()
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            (problem,) = verification.verify(tmp_path)
            assert problem.startswith(f"{path}: expected sha256") and "as config.json says" in problem
            path.write_bytes(whole)

    def test_a_row_that_was_being_replaced_when_it_was_killed_is_no_damage(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, replace, number = "03_dipair-bbbbbbbbbb.ffnn", os.replace, 0

        def dies(*names: Any) -> None:
            if number == 0:
                raise KeyboardInterrupt
            replace(*names)

        for moment in (1, 2, 3):
            number = moment

            def counted(*names: Any) -> None:
                nonlocal number
                number -= 1
                dies(*names)

            monkeypatch.setattr(os, "replace", counted)
            with contextlib.suppress(KeyboardInterrupt):
                results.update_result(folder, run, encode_s_per_text=0.1 * moment)
            monkeypatch.undo()
            assert verification.verify(folder) == []

    def test_a_missing_teacher_is_named(self, folder: Path) -> None:
        row_file(folder, "01_teacher-aaaaaaaaaa.teacher").unlink()
        assert any(
            "01_teacher-aaaaaaaaaa.teacher: no row.json: its run was" in p
            for p in verification.verify(folder)
        )
        assert any(
            "teacher_run: expected the row of 01_teacher-aaaaaaaaaa" in p for p in verification.verify(folder)
        )

    def test_an_empty_folder_has_no_rows(self, tmp_path: Path) -> None:
        assert verification.verify(tmp_path) == [f"{tmp_path}: no rows"]


class TestTeacher:
    def test_is_the_cross_encoder_without_a_teacher_on_the_same_data(self, folder: Path) -> None:
        teacher = "01_teacher-aaaaaaaaaa.teacher"
        small = measured("01_small-cccccccccc.small", STUDENT, family="cross-encoder", teacher_run=teacher)
        other = measured(
            "01_teacher-dddddddddd.teacher", STUDENT, family="cross-encoder", data_sha256="e" * 64
        )
        for one in (small, other):
            results.save_result(folder, one, STUDENT, LABELS, GROUPS)
        assert results.find_teacher(folder, "d" * 64).run_id == teacher
        assert results.find_teacher(folder, "e" * 64).run_id == other.run_id

    def test_the_newest_unless_the_suite_names_its_own(self, folder: Path) -> None:
        newer = measured(
            "01_teacher-eeeeeeeeee.teacher", STUDENT, family="cross-encoder", created_utc="2026-02-01"
        )
        results.save_result(folder, newer, STUDENT, LABELS, GROUPS)
        assert results.find_teacher(folder, "d" * 64).run_id == newer.run_id
        named = ("00_x-1111111111", "01_teacher-aaaaaaaaaa")
        assert results.find_teacher(folder, "d" * 64, among=named).run_id == "01_teacher-aaaaaaaaaa.teacher"

    def test_a_student_learns_from_the_first_or_from_that_of_its_seed(self, folder: Path) -> None:
        for seed in (2, 1):
            other = measured(f"01_teacher-{seed}.teacher", STUDENT, family="cross-encoder", seed=seed)
            results.save_result(folder, other, STUDENT, LABELS, GROUPS)
        teachers = results.find_teachers(folder, "d" * 64, None)
        assert [row.seed or 0 for row in teachers] == [0, 1, 2]
        assert [results.teacher_for_seed(teachers, s).seed or 0 for s in (0, 1, 5)] == [0, 0, 0]
        assert [results.teacher_for_seed(teachers, s, "same").seed or 0 for s in (0, 1, 2)] == [0, 1, 2]
        with pytest.raises(
            ResultError,
            match=r"a teacher of seed 3 .* have seed 0, 1, 2: run 01_teacher with each student's seed first",
        ):
            results.teacher_for_seed(teachers, 3, "same")
        with pytest.raises(ValueError, match="teacher_seed: expected one or same, but got 'each'"):
            results.teacher_for_seed(teachers, 0, "each")

    def test_without_one_the_message_says_what_to_run(self, tmp_path: Path) -> None:
        with pytest.raises(ResultError, match="run 01_teacher"):
            results.find_teacher(tmp_path, "d" * 64)


class TestIdentity:
    def test_key_changes_with_what_changes_the_outcome_and_with_nothing_else(self) -> None:
        key = notebook_files.run_key("03_dipair", {"keep": 8, "out": "a", "threads": 1}, "data", "chip")
        assert key == notebook_files.run_key(
            "03_dipair", {"threads": 2, "out": "b", "keep": 8, "clock": "all"}, "data", "chip"
        )
        assert key.startswith("03_dipair-") and len(key) == len("03_dipair-") + 10
        others = [
            notebook_files.run_key("02_bilstm", {"keep": 8}, "data", "chip"),
            notebook_files.run_key("03_dipair", {"keep": 4}, "data", "chip"),
            notebook_files.run_key("03_dipair", {"keep": 8}, "other", "chip"),
            notebook_files.run_key("03_dipair", {"keep": 8}, "data", "other"),
        ]
        assert len({key, *others}) == 5

    def test_slug(self) -> None:
        assert results.slug("DiPair-FFNN k=8") == "dipair-ffnn-k8"
        assert results.slug("TF-IDF + cosine (words)") == "tf-idf-cosine-words"

    def test_environment_is_this_machine(self) -> None:
        told: dict[str, Any] = provenance.environment()
        assert told["python"] == ".".join(map(str, sys.version_info[:3]))
        assert row(**told).torch == told["torch"]
        assert provenance.device_name() == provenance.device_name("auto")

    def test_a_device_that_was_asked_for_is_the_one_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda which=None: f"GPU {which}")
        name = provenance.device_name.__wrapped__
        assert [name(), name("cuda"), name("cuda:1")] == ["GPU None", "GPU cuda", "GPU cuda:1"]
        on_cpu = name("cpu")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert name() == name("auto") == on_cpu and not on_cpu.startswith("GPU ")

    def test_the_parameter_device_counts_by_the_name_alone(self) -> None:
        keys = [
            notebook_files.run_key("03_x", {"keep": 8, **more}, "f", "chip")
            for more in ({}, {"device": "cpu"})
        ]
        assert (
            keys[0] == keys[1] != notebook_files.run_key("03_x", {"keep": 8, "device": "cpu"}, "f", "another")
        )


def notebook(source: str, path: Path, tag: str = "parameters") -> Path:
    cell = {
        "cell_type": "code",
        "source": source.splitlines(True),
        "metadata": {"tags": [tag]},
        "outputs": [],
    }
    path.write_text(json.dumps({"cells": [cell]}), encoding="utf8")
    return path


class TestParameters:
    def test_are_literals_in_order(self, tmp_path: Path) -> None:
        path = notebook(
            'task = "pydocs"  # data\nkeep: int = 8\nrates = [1e-4, -2]\nlimit = None\n', tmp_path / "a.ipynb"
        )
        parameters = notebook_files.notebook_parameters(path)
        assert parameters == {"task": "pydocs", "keep": 8, "rates": [1e-4, -2], "limit": None}
        assert list(parameters) == ["task", "keep", "rates", "limit"]

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("import os", "line 1: expected `name = literal`, but got `import os`"),
            ("a = 1\nb = a + 1", "expected only `name = literal` lines"),
            ("a = b = 1", "line 1: expected"),
            ("a = (", "expected only"),
        ],
    )
    def test_anything_else_is_refused(self, tmp_path: Path, source: str, message: str) -> None:
        with pytest.raises(ResultError, match=message):
            notebook_files.notebook_parameters(notebook(source, tmp_path / "a.ipynb"))

    def test_one_tagged_cell_is_expected(self, tmp_path: Path) -> None:
        with pytest.raises(ResultError, match='one cell tagged "parameters", but got 0'):
            notebook_files.notebook_parameters(notebook("a = 1", tmp_path / "a.ipynb", tag="other"))
        (tmp_path / "b.ipynb").write_text("{", encoding="utf8")
        with pytest.raises(ResultError, match="is not a notebook"):
            notebook_files.notebook_parameters(tmp_path / "b.ipynb")


class TestRun:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> notebook_run.Run:
        test = pd.DataFrame({"a": list("abcdefgh"), "label": LABELS, "group": GROUPS})
        task = SimpleNamespace(
            name="letters",
            fingerprint="f" * 64,
            identity="f" * 64,
            metrics=("auc", "f1"),
            train=test,
            test=test,
            notes={"dropped": 2},
        )
        monkeypatch.setattr(loading, "load_run_task", lambda parameters: task)
        (tmp_path / "notebooks").mkdir()
        notebook('task = "letters"\nout = "o"\nseed = 3\nthreads = 1', tmp_path / "notebooks" / "03_x.ipynb")
        monkeypatch.chdir(tmp_path)
        return notebook_run.open_run(
            "03_x", {"task": "letters", "out": "results/mine", "seed": 4, "threads": 2, "else": 5}
        )

    def test_values_come_from_the_namespace_names_from_the_notebook(self, run: notebook_run.Run) -> None:
        assert run.parameters == {"task": "letters", "out": "results/mine", "seed": 4, "threads": 2}
        assert run.key == notebook_files.run_key("03_x", run.parameters, "f" * 64, provenance.device_name())
        assert (run.out.is_dir(), run.suite) == (True, "mine")

    def test_out_is_meant_from_the_notebooks_folder_wherever_it_was_started(
        self, run: notebook_run.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert Path.cwd() == tmp_path, "as papermill starts it in the project"
        given = {**run.parameters, "out": "../results/demo"}
        started = notebook_run.open_run("03_x", given)
        assert started.out == tmp_path / "results" / "demo" and (started.out / ".dipair").is_file()
        assert notebook_files.from_notebook("03_x", started.out) == started.out, "again changes nothing"
        monkeypatch.chdir(tmp_path / "notebooks")
        assert notebook_run.open_run("03_x", given).out == Path("../results/demo")
        monkeypatch.chdir("/")
        assert notebook_files.from_notebook("03_x", "../results/demo") == Path("../results/demo")

    def test_a_folder_of_something_else_gets_no_mark(self, run: notebook_run.Run, tmp_path: Path) -> None:
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "a.txt").touch()
        notebook_run.open_run("03_x", {**run.parameters, "out": "../thesis"})
        assert sorted(p.name for p in (tmp_path / "thesis").iterdir()) == ["a.txt", "rows"]
        (tmp_path / "file").touch()
        with pytest.raises(ResultError, match=r"file.*could not be written"):
            notebook_run.open_run("03_x", {**run.parameters, "out": "../file/x"})

    def test_under_a_suite_the_key_is_the_suites(
        self, run: notebook_run.Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DIPAIR_RUN", "03_x-9999999999")
        monkeypatch.setenv("DIPAIR_SUITE", "demo")
        monkeypatch.setenv("DIPAIR_INPUTS", "01_teacher-aaaaaaaaaa 01_teacher-bbbbbbbbbb")
        again = notebook_run.open_run("03_x", {**run.parameters, "seed": 9})
        assert (again.key, again.suite) == ("03_x-9999999999", "demo")
        assert again.inputs == ("01_teacher-aaaaaaaaaa", "01_teacher-bbbbbbbbbb")

    def test_a_row_knows_where_it_is_from(self, run: notebook_run.Run) -> None:
        result = run.result(model="FFNN k=4", family="dipair", metrics={"f1": 0.5}, n_train=5)
        assert result.run_id == run.row_id("FFNN k=4") == f"{run.key}.ffnn-k4"
        assert (result.task, result.metric, result.seed) == ("letters", "auc", 4)
        assert (result.n_examples, result.n_groups, result.n_train) == (8, 4, 5)
        assert result.metrics == '{"f1":0.5}'
        assert json.loads(result.data_notes or "") == {"dropped": 2}
        assert "out" not in json.loads(result.parameters)
        assert run.save(result, STUDENT) == run.folder(result)
        assert results.load_results(run.out) == [result]

    def test_a_parameter_without_a_value_is_named(self, run: notebook_run.Run) -> None:
        with pytest.raises(ResultError, match="parameter threads has no value"):
            notebook_run.open_run("03_x", {"task": "letters", "out": "o", "seed": 1})
        with pytest.raises(ResultError, match=r"04_y\.ipynb: not found"):
            notebook_run.open_run("04_y", {})


def test_a_notebook_that_is_just_being_saved_is_waited_for(tmp_path: Path) -> None:
    """JupyterLab empties the file first, while a cell of that notebook may be reading it."""
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["rate = 3"]}
    path = tmp_path / "n.ipynb"
    path.write_text("")
    saved = threading.Timer(0.3, path.write_text, [json.dumps({"cells": [cell]})])
    saved.start()
    assert notebook_files.notebook_parameters(path) == {"rate": 3}
    saved.join()
