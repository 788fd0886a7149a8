"""Facts about an exported student: it stands alone, scores as its run does, says what it is, and is refused where it is not whole."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

from dipair_lib import cli, models
from dipair_lib.evaluation import results
from dipair_lib.evaluation.schema import Result
from dipair_lib.models import BiLSTM, CrossEncoder, DualEncoder
from dipair_lib.models.folders import sealed, sha256_of
from dipair_lib.reporting import export, export_onnx
from dipair_lib.reporting.export_onnx import ExportError
from dipair_lib.scoring import encoding, manifest
from dipair_lib.scoring.scorer import Scorer
from dipair_lib.system import disk

LEFT = ["red tree", "the old river runs", "a car", "blue stone and a house in the river"]
RIGHT = ["a red tree grows", "cold", "the car is fast and the river is slow and old", "stone"]
HOSTILE = "<script>alert(1)</script> | [x](javascript:alert(2)) `\x1b[31m\u202e"
FFNN: dict[str, Any] = {"head": "ffnn", "keep": (4, 4), "projection": 8, "hidden": (16, 8)}
HEADS: dict[str, dict[str, Any]] = {  # each head, and each similarity that one may correct
    "cosine": {"head": "cosine", "keep": (0, 0), "pooled": True, "projection": 0},
    "ffnn on a cosine": {"keep": (2, 4), "pooled": True, "residual": "cosine"},
    "transformer on maxsim": {
        "head": "transformer",
        "head_layers": 2,
        "residual": "maxsim",
        "select": "even",
    },
    "ffnn, kept by norm": {"select": "norm"},
    "cosine+maxsim": {"head": "cosine+maxsim", "pooled": True, "shared": False},
}


def saved(folder: Path, model: Any, frozen: bool = False, /, **fields: Any) -> Path:
    """A run's folder with a row and its model."""
    known: dict[str, Any] = {
        "run_id": "03_dipair-0.student", "created_utc": "2026-01-01T00:00:00+00:00", "notebook": "03_dipair", "suite": "demo",
        "task": "toy", "split": "test", "model": model.describe()["model"], "family": model.describe()["family"],
        "metric": "auc", "quality": 0.8125, "quality_low": 0.7501, "quality_high": 0.8749, "retained": 0.9028, "retained_low": 0.85,
        "retained_high": 0.95, "n_boot": 1000, "n_train": 4321, "data_sha256": "ab" * 32, "data_notes": json.dumps({"source": "toy.csv"}),
        "parameters": json.dumps({"task": "toy"}), "seed": 3, "steps": 10, "combine_s_per_pair": 1e-6, "combine_s_per_pair_q1": 0.8e-6,
        "combine_s_per_pair_q3": 1.25e-6, "device_name": "Abacus 3000", "threads": 2, "dtype": "float32",
    }  # fmt: skip
    row = Result(**{**known, **fields})
    models.save(model, folder / "rows" / row.run_id / "model", frozen_encoder=frozen)
    results.save_result(folder, row, np.zeros((2, 1)), np.array([0, 1]), np.array([0, 1]))
    return folder / "rows" / row.run_id


def student(backbone: str, **settings: Any) -> DualEncoder:
    """A student with random weights, those of its head's last layer and of its layer norms (plain ones give all tokens one norm) too."""
    torch.manual_seed(1)
    model = DualEncoder(backbone, (8, 12), **{**FFNN, **settings})
    with torch.no_grad():
        norms = (p for name, p in model.named_parameters() if "LayerNorm" in name)
        for parameter in (*model.head.parameters(), *norms):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


class TestItStandsAlone:
    @pytest.mark.parametrize("frozen", [False, True])
    def test_scores_are_those_of_the_run_without_the_run_and_the_backbone(
        self, tiny_backbone: str, tmp_path: Path, frozen: bool
    ) -> None:
        backbone = shutil.copytree(tiny_backbone, tmp_path / "backbone")
        run = saved(tmp_path / "suite", student(str(backbone)), frozen)
        expected = Scorer.load(run).score(LEFT, RIGHT)
        out = export.export(run, tmp_path / "out")
        shutil.rmtree(backbone)
        shutil.rmtree(tmp_path / "suite")
        moved = out.rename(tmp_path / "elsewhere")
        assert Scorer.load(moved).score(LEFT, RIGHT).tolist() == expected.tolist()
        assert len(set(expected.tolist())) == len(LEFT)

    def test_a_bilstm_too(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        run = saved(tmp_path, BiLSTM(["red", "tree", "river"], (8, 12), 4, 5, 6).eval())
        out = export.export(run, tmp_path / "out")
        assert Scorer.load(out).score(LEFT, RIGHT).tolist() == Scorer.load(run).score(LEFT, RIGHT).tolist()
        with pytest.raises(ExportError, match="without --onnx"):
            export.export(run, tmp_path / "graphs", onnx=True)

    def test_nothing_says_where_it_lay(self, tiny_backbone: str, tmp_path: Path) -> None:
        parameters = json.dumps({"backbone": tiny_backbone, "task": str(tmp_path / "pairs.csv")})
        out = export.export(saved(tmp_path, student(tiny_backbone), parameters=parameters), tmp_path / "out")
        text = "".join(path.read_text(encoding="utf8") for path in out.rglob("*.json")) + (
            out / "README.md"
        ).read_text(encoding="utf8")
        assert str(Path(tiny_backbone).parent) not in text and str(tmp_path) not in text

    def test_collections_are_encoded_with_it(self, tiny_backbone: str, tmp_path: Path) -> None:
        out = export.export(saved(tmp_path, student(tiny_backbone)), tmp_path / "out")
        (tmp_path / "texts.csv").write_text("id,text\n1,red tree\n2,cold river\n", encoding="utf8")
        assert len(encoding.encode(out, tmp_path / "texts.csv", 0, tmp_path / "store")) == 2


@pytest.mark.parametrize("name", HEADS)
def test_onnx_gives_torchs_numbers(tiny_backbone: str, tmp_path: Path, name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = student(tiny_backbone, **HEADS[name])
    out = export.export(saved(tmp_path, model), tmp_path / "out", onnx=True)
    fed: dict[str, np.ndarray] = {}
    for field, texts in enumerate((LEFT, RIGHT)):
        tokens = models.tokens.tokenize(model.tokenizer, texts, model.read_lengths[field])
        ids, mask = tokens.take(np.arange(len(texts)), length=max(model.keep))
        session = runtime.InferenceSession(str(out / "onnx" / f"encoder-{field}.onnx"))
        found = session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})
        fed |= dict(zip((one.name for one in session.get_outputs()), found, strict=True))
    head = runtime.InferenceSession(str(out / "onnx" / "head.onnx"))
    (logits,) = head.run(None, {one.name: fed[one.name] for one in head.get_inputs()})
    scorer = Scorer(models.load(out))
    scorer.encoder = scorer.model  # float32, whatever is faster here
    assert np.abs(logits[:, 0] - scorer.score(LEFT, RIGHT)).max() < 1e-4


def test_graphs_that_differ_are_refused(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export_onnx, "save_graph", lambda *_: None)
    monkeypatch.setattr(export_onnx, "largest_difference", lambda *_: 2e-4)
    with pytest.raises(ExportError, match=r"differ by 0\.0002, over 0\.0001"):
        export.export(saved(tmp_path, student(tiny_backbone)), tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


class TestTheCard:
    def test_holds_the_rows_numbers(self, tiny_backbone: str, tmp_path: Path) -> None:
        page = (
            export.export(saved(tmp_path, student(tiny_backbone)), tmp_path / "out") / "README.md"
        ).read_text(encoding="utf8")
        for told in ("0.812 (0.750 to 0.875)", "90.3 % (85.0 to 95.0)", "1 M (800 k to 1.25 M, quartiles)", "Abacus 3000", "2 threads",
                     "4321 training rows", "ab" * 32, "toy.csv", "One seed (3)", "US patent"):  # fmt: skip
            assert told in page
        assert page.count("unknown") >= 2  # licences of data and backbone

    def test_licences_are_those_that_notes_and_backbone_name(
        self, tiny_backbone: str, tmp_path: Path
    ) -> None:
        backbone = shutil.copytree(tiny_backbone, tmp_path / "backbone")
        (backbone / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n# Tiny\n", encoding="utf8")
        run = saved(tmp_path / "suite", student(str(backbone)), data_notes=json.dumps({"licence": "CC0"}))
        page = (export.export(run, tmp_path / "out") / "README.md").read_text(encoding="utf8")
        assert "Backbone: bsd-3-clause" in page
        assert "CC0" in page.split("## Licences")[1]

    def test_text_from_data_is_shown_as_it_is(self, tiny_backbone: str, tmp_path: Path) -> None:
        run = saved(
            tmp_path,
            student(tiny_backbone),
            task=HOSTILE,
            model=HOSTILE,
            data_notes=json.dumps({HOSTILE: HOSTILE}),
        )
        page = (export.export(run, tmp_path / "out") / "README.md").read_text(encoding="utf8")
        assert not re.search(r"<script|(?<!\\)\]\(javascript|\x1b|\u202e", page)
        assert "&lt;script&gt;" in page

    def test_it_says_what_bfloat16_changes(self, tiny_backbone: str, tmp_path: Path) -> None:
        model = student(tiny_backbone)
        found = export.rounding_of(model)
        assert found is not None and 0 < found["rms"] < found["largest"] < found["spread"]
        page = (export.export(saved(tmp_path, model), tmp_path / "out") / "README.md").read_text("utf8")
        assert f"2048 pairs of English sentences by at most {found['largest']:.2g}" in page
        assert (
            f"root mean square {found['rms']:.2g}), where their standard deviation is {found['spread']:.2g}"
            in page
        )
        assert export.rounding_of(BiLSTM(["red"], (8, 12), 4, 5, 6)) is None

    def test_an_unclocked_student_is_said_to_be_so(self, tiny_backbone: str, tmp_path: Path) -> None:
        run = saved(
            tmp_path, student(tiny_backbone), combine_s_per_pair=None, quality_low=None, quality_high=None
        )
        assert "Not clocked." in (export.export(run, tmp_path / "out") / "README.md").read_text(
            encoding="utf8"
        )


class TestThreshold:
    def test_a_run_and_its_export_score_from_their_own(
        self, tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The threshold lies between the scores of two pairs: one is kept."""
        texts = ["red car", "blue house"]
        run = saved(tmp_path, student(tiny_backbone))
        scores = sorted(
            Scorer.load(run).score(texts[:1], texts[1:]).tolist()
            + Scorer.load(run).score(texts[:1], texts[:1]).tolist()
        )
        shutil.rmtree(run)
        run = saved(tmp_path, student(tiny_backbone), threshold=sum(scores) / 2)
        out = export.export(run, tmp_path / "out")
        assert manifest.threshold_of(run) == manifest.threshold_of(out) == sum(scores) / 2
        assert "chosen on dev for the best F1" in (out / "README.md").read_text(encoding="utf8")
        (tmp_path / "left.csv").write_text("text\nred car\n")
        (tmp_path / "right.csv").write_text("text\nred car\nblue house\n")
        for side, field in (("left", 0), ("right", 1)):
            encoding.encode(out, tmp_path / f"{side}.csv", field, tmp_path / side)
        where = (
            f"--student {out} --left {tmp_path}/left --right {tmp_path}/right --out {tmp_path}/scores --all"
        )
        assert cli.main(["score", *where.split(), "--threshold", "auto"]) == 0
        assert "2 pairs scored, 1 rows" in capsys.readouterr().out

    def test_without_one_it_is_asked(self, tiny_backbone: str, tmp_path: Path) -> None:
        with pytest.raises(models.ModelError, match="has no threshold of its own"):
            manifest.threshold_of(saved(tmp_path, student(tiny_backbone)))


class TestAFullDisk:
    @pytest.mark.parametrize("where", ["weights", "tokenizer"])
    def test_is_said_and_leaves_nothing(
        self, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        """Neither library raises an OSError."""
        said = "I/O error: No space left on device (os error 28)"

        def full(*_: Any, **__: Any) -> None:
            from safetensors import SafetensorError

            raise (SafetensorError if where == "weights" else Exception)(said)

        run = saved(tmp_path, student(tiny_backbone))
        if where == "weights":
            monkeypatch.setattr(models.stored, "save_file", full)
        else:
            monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
        with pytest.raises(
            (ExportError, models.ModelError), match=r"could not be written \(I/O error: No space"
        ):
            export.export(run, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_a_run_with_a_changed_setting_is_not_read(tiny_backbone: str, tmp_path: Path) -> None:
    """Its weights fit, and every score would be another."""
    run = saved(tmp_path, student(tiny_backbone))
    path = run / "model" / "config.json"
    config = json.loads(path.read_text())
    config["settings"]["read_lengths"] = [8, 11]
    path.write_text(json.dumps(config))
    with pytest.raises(models.ModelError, match=r"config\.json: its sha256 is not the one in .*SHA256SUMS"):
        Scorer.load(run)
    (run / "SHA256SUMS").unlink()  # as an earlier version left it
    assert Scorer.load(run).model.read_lengths == [8, 11]


class TestAnExportThatWasKilled:
    def beside(self, out: Path, what: str) -> Path:
        """Where a process that is gone left a folder beside an export's."""
        return out.with_name(f".{out.name}.{1 << 30}.{what}")

    def test_what_it_left_beside_is_removed_by_the_next(self, tiny_backbone: str, tmp_path: Path) -> None:
        run, out = saved(tmp_path, student(tiny_backbone)), tmp_path / "out"
        for left in (self.beside(out, "tmp"), self.beside(out, "old"), tmp_path / ".out.more.5.tmp"):
            (left / "tokenizer").mkdir(parents=True)
        export.export(run, out)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".out.more.5.tmp", "out", "rows"]

    def test_what_it_was_taking_the_place_of_is_put_back(
        self, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, out = saved(tmp_path, student(tiny_backbone)), tmp_path / "out"
        before = (export.export(run, out) / "config.json").read_bytes()
        out.rename(self.beside(out, "old"))  # killed between two renames
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises((ExportError, disk.ResultError)):
            export.export(run, out)
        assert (out / "config.json").read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows"]

    def test_a_second_one_at_work_is_refused_and_changes_nothing(
        self, tiny_backbone: str, tmp_path: Path
    ) -> None:
        run, out = saved(tmp_path, student(tiny_backbone)), tmp_path / "out"
        with export.replaced(out) as made:
            (made / "config.json").write_text("{}")
            with pytest.raises(ExportError, match="another process exports to it"):
                export.export(run, out)
            assert made.exists()
        assert [path.name for path in out.iterdir()] == ["config.json"]


class TestItIsRefused:
    @pytest.fixture
    def out(self, tiny_backbone: str, tmp_path: Path) -> Path:
        return export.export(saved(tmp_path, student(tiny_backbone)), tmp_path / "out")

    def changed(self, out: Path, **further: Any) -> None:
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps(sealed({**config, **further}, models.SEAL)))

    @pytest.mark.parametrize(
        "name", ["model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
    )
    def test_a_changed_file_is_named(self, out: Path, name: str) -> None:
        (out / name).write_bytes((out / name).read_bytes() + b" ")
        with pytest.raises(models.ModelError, match=f"{Path(name).name}: expected sha256"):
            Scorer.load(out)

    def test_a_changed_config_is_named(self, out: Path) -> None:
        """One digit of a read length would give other scores. An export of an earlier version has no hash of it."""
        text = (out / "config.json").read_text()
        (out / "config.json").write_text(text.replace('"read_lengths": [8, 12]', '"read_lengths": [8, 13]'))
        with pytest.raises(models.ModelError, match=r"config\.json: damaged: its sha256 is not that of what"):
            Scorer.load(out)
        config = json.loads(text)
        del config[models.SEAL]
        (out / "config.json").write_text(json.dumps(config))
        assert len(Scorer.load(out).score(LEFT, RIGHT)) == len(LEFT)

    def test_a_foreign_tokenizer_file_is_named(self, out: Path) -> None:
        (out / "tokenizer" / "special_tokens_map.json").write_text("{}")
        with pytest.raises(models.ModelError, match="special_tokens_map"):
            Scorer.load(out)

    def test_a_path_that_climbs_out_is_named(self, out: Path) -> None:
        self.changed(out, tokenizer={"../../secret": "0" * 64})
        with pytest.raises(models.ModelError, match="secret"):
            Scorer.load(out)

    def test_remote_code_is_never_run(self, out: Path) -> None:
        path = out / "tokenizer" / "tokenizer_config.json"
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": "evil.Tokenizer"}})
        )
        hashes = {p.name: sha256_of(p) for p in path.parent.iterdir()}
        self.changed(out, tokenizer=hashes)
        with pytest.raises(models.BackboneError, match="remote code"):
            Scorer.load(out)

    def test_pickled_weights_are_never_loaded(self, out: Path) -> None:
        os.replace(out / "model.safetensors", out / "pytorch_model.bin")
        with pytest.raises(models.ModelError, match="pickled"):
            Scorer.load(out)


class TestWhatIsExported:
    def test_a_teacher_is_no_student(self, tiny_backbone: str, tmp_path: Path) -> None:
        run = saved(tmp_path, CrossEncoder(tiny_backbone, (8, 12)), run_id="01_teacher-0.teacher")
        with pytest.raises(ExportError, match="export one of the students"):
            export.export(run, tmp_path / "out")

    def test_another_folder_is_left_alone_and_an_export_replaced(
        self, tiny_backbone: str, tmp_path: Path
    ) -> None:
        run, out = saved(tmp_path, student(tiny_backbone)), tmp_path / "out"
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
        with pytest.raises(ExportError, match="something other"):
            export.export(run, out)
        assert [path.name for path in out.iterdir()] == ["thesis.txt"]
        (out / "thesis.txt").unlink()
        export.export(run, out)
        (out / "README.md").write_text("old")
        export.export(run, out)
        assert "Load" in (out / "README.md").read_text(encoding="utf8")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows"]

    @pytest.mark.parametrize("full", ["weights", "tokenizer", "card"])
    def test_a_full_disk_is_said_in_words_and_leaves_the_earlier_export(
        self,
        tiny_backbone: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        full: str,
    ) -> None:
        run, out = saved(tmp_path, student(tiny_backbone)), tmp_path / "out"
        export.export(run, out)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

        def refuse(*_: Any, **__: Any) -> None:
            if full == "weights":
                raise SafetensorError(
                    "Error while serializing: I/O error: No space left on device (os error 28)"
                )
            raise Exception("No space left on device (os error 28)")

        def no_space(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        if full == "weights":
            monkeypatch.setattr(models.stored, "save_file", refuse)
        elif full == "tokenizer":
            monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", refuse)
        else:
            monkeypatch.setattr(os, "fsync", no_space)
        assert cli.main(["export", str(run), str(out)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("dipair: ") and said.count("\n") == 1
        assert "No space left" in said or "disk is full" in said
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows"]

    def test_a_run_of_another_folder_is_not_one(self, tmp_path: Path) -> None:
        with pytest.raises(disk.ResultError, match="not found"):
            export.export(tmp_path / "rows" / "none", tmp_path / "out")

    def test_without_the_extra_it_says_what_to_install(
        self,
        tiny_backbone: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        run = saved(tmp_path, student(tiny_backbone))
        monkeypatch.setitem(sys.modules, "onnxscript", None)
        assert cli.main(["export", str(run), str(tmp_path / "out"), "--onnx"]) == 2
        assert "peers" in capsys.readouterr().err
        assert cli.main(["export", str(run), str(tmp_path / "out")]) == 0
