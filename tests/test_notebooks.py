"""Notebooks as committed: one cell of commented literals, no outputs, the common kernel, small cells, suites that fit."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import sentences

from dipair_lib.evaluation import results, schema, verification
from dipair_lib.runner import notebook_files, suite, suite_file

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ["01_teacher", "02_bilstm", "03_dipair", "04_tradeoff", "05_explorer", "06_scale", "07_architectures"]
SUITES = sorted((FOLDER / "suites").glob("*.yaml"))


@pytest.fixture(params=NAMES)
def path(request: pytest.FixtureRequest) -> Path:
    return FOLDER / f"{request.param}.ipynb"


@pytest.fixture
def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf8"))["cells"]


def code(cells: list[dict[str, Any]]) -> list[str]:
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_no_notebook_is_left_out_of_these_checks() -> None:
    assert sorted(p.stem for p in FOLDER.glob("*.ipynb")) == NAMES


def test_is_valid_and_runs_on_the_kernel_every_machine_has(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_is_committed_without_outputs(cells: list[dict[str, Any]]) -> None:
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, cell.get("id")


def test_parameters_are_the_first_code_cell_and_of_types_papermill_keeps(
    path: Path, cells: list[dict[str, Any]]
) -> None:
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    assert first["metadata"].get("tags") == ["parameters"]
    parameters = notebook_files.notebook_parameters(path)
    assert "out" in parameters
    for name, value in parameters.items():
        kept = isinstance(value, bool | int | float | str) or (
            isinstance(value, list) and all(isinstance(entry, bool | int | float | str) for entry in value)
        )
        assert kept, f"{name} = {value!r}: only scalars and lists of scalars come through papermill unchanged"


def test_every_parameter_has_a_comment(cells: list[dict[str, Any]]) -> None:
    source = code(cells)[0]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    for statement in ast.parse(source).body:
        assert statement.end_lineno in commented, ast.unparse(statement)


def test_shared_parameters_have_the_same_defaults_everywhere() -> None:
    known = {name: notebook_files.notebook_parameters(FOLDER / f"{name}.ipynb") for name in NAMES}
    assert len({known[name]["out"] for name in NAMES}) == 1
    for parameter in ("task", "fields", "label", "group", "max_train", "backbone"):
        values = [known[name][parameter] for name in NAMES[:3] if parameter in known[name]]
        assert values and all(value == values[0] for value in values), parameter


def test_is_a_story_in_small_cells(cells: list[dict[str, Any]]) -> None:
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    for source in code(cells)[1:]:
        assert len(source.splitlines()) <= 20, source
        ast.parse(re.sub(r"(?m)^\s*%.*$", "", source))
    prose = sum(cell["cell_type"] == "markdown" for cell in cells)
    assert prose >= len(code(cells)) / 2, "prose stands between the cells"


def test_opens_the_run_of_its_own_name(path: Path, cells: list[dict[str, Any]]) -> None:
    named = [
        n for source in code(cells) for n in re.findall(r'(?:open_run|from_notebook)\("([^"]+)"', source)
    ]
    assert named == [path.stem], "so that `out` is meant from its folder wherever it is started"


def test_training_notebooks_save_their_rows(path: Path, cells: list[dict[str, Any]]) -> None:
    saves = any("run.record(" in source for source in code(cells))
    assert saves == (path.stem in NAMES[:3])


def test_there_is_a_demo_and_a_smoke_suite() -> None:
    assert {"demo", "smoke"} <= {p.stem for p in SUITES}


def test_suites_fit_the_notebooks() -> None:
    for path in SUITES:
        read = suite_file.read_suite(path)
        assert read.name == path.stem
        # What measures time runs alone, so only the last stage may: the others share the machine.
        last = max(r.stage for r in read.runs)
        assert [r.label for r in read.runs if r.alone and r.stage < last] == [], path.name
        assert "04_tradeoff" in {r.notebook for r in read.runs if r.stage == last}, path.name


@pytest.mark.parametrize(
    ("name", "rows"),
    [("tang2019", 66_977), ("tang2019-sst2", 66_977), ("tang2019-reduced", 3_441), ("tang2019-pairs", 5_000)],
)
def test_the_papers_suites_say_how_many_rows_a_student_sees(name: str, rows: int) -> None:
    """Rows of the task at each share (as committed rows count them) times the epochs, or the pairs of each device, in the comment above."""
    path = FOLDER / "suites" / f"{name}.yaml"
    said = path.read_text(encoding="utf8").partition("name:")[0]
    for run in suite_file.read_suite(path).runs:
        if run.notebook == "02_bilstm":
            epochs = run.parameters["epochs"] * round(run.parameters["share"] * rows)
            for seen in run.parameters["pairs"] or [epochs]:
                assert f"{seen:,.0f}" in said, run.label


DIPAIR = [f"DiPair-{head} k=4 w=16 (frozen for 1 epochs)" for head in ("FFNN", "TSF")]
STARTED = [name.replace("(", "(2,000 cosine pairs, ") for name in DIPAIR]  # of pairs, in the smoke suite
OWN = {"projection": "16", "keep": "[4]", "stage1_epochs": "1.0", "clock": "none"}


def run_smoke(task: Path, backbone: str, out: Path, **parameters: str) -> Path:
    """The smoke suite on a file of one's own, as the README's command does it; 04_tradeoff keeps its clock."""
    given = {**OWN, **parameters, "task": str(task), "backbone": backbone}
    given.pop("clock")
    status = suite.run_suite(FOLDER / "suites" / "smoke.yaml", given, jobs=2, out=out, stream=io.StringIO())
    assert status == 0, [p.name for p in (out / "notebooks").glob("*.failed.ipynb")]
    return out


class TestOwnData:
    """Every notebook, really executed, on a CSV of one's own with a backbone of one's own."""

    def test_pairs_of_three_columns(self, pairs: pd.DataFrame, tiny_backbone: str, tmp_path: Path) -> None:
        many = pd.concat(
            [
                pairs.assign(group=pairs["group"] + 1000 * i, query=pairs["query"] + f" {w}")
                for i, w in enumerate(["red", "old", "sleeps"])
            ]
        )
        many[["query", "passage", "label"]].to_csv(tmp_path / "pairs.csv", index=False)
        out = run_smoke(
            tmp_path / "pairs.csv", tiny_backbone, tmp_path / "mine", fields="[query, passage]", label="label"
        )
        rows = {r.model: r for r in results.load_results(out)}
        assert set(rows) == {
            "constant", "TF-IDF", "frozen cosine", "teacher", "BiLSTM 150 (logits)", *STARTED,
        }  # fmt: skip
        assert verification.verify(out) == []
        teacher = rows["teacher"]
        for row in rows.values():
            assert row.teacher_run == teacher.run_id
            assert row.combine_s_per_pair is not None and row.combine_s_per_pair > 0
            assert row.clock_id == teacher.clock_id
        page = (out / "report.html").read_text(encoding="utf8")
        assert STARTED[1] in page
        assert "pairs.csv" in page

    def test_single_sentences_of_three_classes(self, tiny_backbone: str, tmp_path: Path) -> None:
        colours = ["red", "green", "blue"]
        frame = pd.DataFrame({"text": [f"the {c} {w}" for c in colours for w in sentences(40, seed=len(c))]})
        frame["colour"] = [text.split()[1] for text in frame["text"]]
        frame.to_csv(tmp_path / "colours.tsv", sep="\t", index=False)
        out = run_smoke(
            tmp_path / "colours.tsv", tiny_backbone, tmp_path / "mine", fields="[text]", label="colour"
        )
        rows = {r.model: r for r in results.load_results(out)}
        assert set(rows) == {
            "constant",
            "TF-IDF",
            "teacher",
            "BiLSTM 150 (logits)",
            *DIPAIR,
        }
        assert {r.metric for r in rows.values()} == {"accuracy"}
        assert results.load_logits(out, rows[DIPAIR[1]].run_id).logits.shape[1] == 3
        assert verification.verify(out) == []

    def test_a_task_of_the_hub_with_synthetic_rows_over_seeds(
        self, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the hub's name, from local files of the official layout; test labels hidden."""
        texts = [
            (f"the {c} {w}", int(c == "red")) for c in ("red", "green") for w in sentences(60, seed=len(c))
        ]
        folder = tmp_path / "GLUE" / "SST-2"
        folder.mkdir(parents=True)
        for split, rows in (("train", texts[5:-5]), ("dev", texts[:5] + texts[-5:])):
            lines = "".join(f"{text} {split}\t{label}\n" for text, label in rows)
            (folder / f"{split}.tsv").write_text(f"sentence\tlabel\n{lines}")
        monkeypatch.setenv("DIPAIR_GLUE", str(folder.parent))
        more = {"augment": "all", "n_iter": "2", "n_seeds": "2", "alpha": "0.5"}
        out = run_smoke(Path("glue/sst2"), tiny_backbone, tmp_path / "mine", **more)
        students = [r for r in results.load_results(out) if r.family == "bilstm"]
        assert [(r.model, r.seed) for r in students] == [
            ("BiLSTM 150 (logits + 0.5 labels, all x2, teacher's classes)", s) for s in (0, 1)
        ]
        assert {(r.task, r.metric) for r in students} == {("glue/sst2", "accuracy")}
        assert all(r.n_synthetic for r in students)
        assert "GLUE hides the labels of its test set" in (students[0].data_notes or "")
        assert verification.verify(out) == []


OWN_SUITE = """
name: own
defaults: {{task: {task}, fields: [{fields}], label: label, group: group, backbone: {backbone}, clock: none, stage2_epochs: 1.0, keep: [4],
  projection: [16], read_lengths: [{lengths}]}}
stages:
  - required: true
    runs:
      - {{notebook: 01_teacher, parameters: {{{teacher}}}, grid: {{seed: [{seeds}]}}}}
  - runs:
{students}
  - runs:
      - {{notebook: 04_tradeoff, parameters: {{clock: all}}}}
"""


def run_own(tmp_path: Path, **parts: str) -> list[schema.Result]:
    """A suite of one's own, run and verified; its rows."""
    (tmp_path / "own.yaml").write_text(OWN_SUITE.format(**{"teacher": "", "seeds": "0", **parts}))
    out = tmp_path / "mine"
    status = suite.run_suite(
        tmp_path / "own.yaml", jobs=2, out=out, notebooks_dir=FOLDER, stream=io.StringIO()
    )
    assert status == 0, [p.name for p in (out / "notebooks").glob("*.failed.ipynb")]
    assert verification.verify(out) == []
    return results.load_results(out)


class TestDiPair:
    """03_dipair beyond its defaults, really executed."""

    def test_three_fields_from_end_to_end(
        self, pairs: pd.DataFrame, tiny_backbone: str, tmp_path: Path
    ) -> None:
        pairs.assign(name=pairs["query"].str.split().str[0]).to_csv(tmp_path / "triples.csv", index=False)
        heads = "      - {notebook: 03_dipair, parameters: {pooled: true}, grid: {head: [ffnn, transformer]}}"
        rows = run_own(
            tmp_path, task=str(tmp_path / "triples.csv"), fields="name, query, passage", backbone=tiny_backbone,
            lengths="4, 8, 12", students=heads,
        )  # fmt: skip
        students = {row.model: row for row in rows if row.family == "dipair"}
        assert set(students) == {f"DiPair-{head} k=4 w=16 + pooled" for head in ("FFNN", "TSF")}
        for row in students.values():
            assert row.read_lengths == "4+8+12"
            assert row.combine_s_per_pair is not None and row.combine_s_per_pair > 0
            assert set(json.loads(row.metrics or "")) == {"accuracy", "f1", "mrr@10", "ndcg@10"}

    def test_what_is_past_the_paper_in_one_student(
        self, pairs: pd.DataFrame, tiny_backbone: str, tmp_path: Path
    ) -> None:
        """Two teachers that learned the cosine first, unlabelled pairs and tiles, separate encoders from the teacher, every extra loss."""
        pairs.to_csv(tmp_path / "pairs.csv", index=False)
        more = pd.DataFrame({"query": ["red car", "old tree"] * 5, "passage": sentences(10, seed=7)})
        more.to_csv(tmp_path / "more.csv", index=False)
        student = {
            "pooled": True, "residual": "cosine", "select": "learned", "shared": False, "start": "teacher", "teachers": 2, "pool": 128,
            "unlabelled": str(tmp_path / "more.csv"), "loss": "margin", "alpha": 0.2, "n_seeds": 2,
        }  # fmt: skip
        students = [
            {"notebook": "03_dipair", "parameters": student},
            {"notebook": "03_dipair", "parameters": {"head": "maxsim", "stage1_epochs": 0.0}},
        ]
        rows = run_own(
            tmp_path,
            task=str(tmp_path / "pairs.csv"),
            fields="query, passage",
            backbone=tiny_backbone,
            lengths="8, 12",
            teacher=f"warm: 1.0, warm_on: {tmp_path}/more.csv",
            seeds="0, 1",
            students="\n".join(f"      - {json.dumps(s)}" for s in students),
        )
        made = [row for row in rows if row.notebook == "03_dipair" and "MaxSim" not in row.model]
        assert [row.seed for row in made] == [0, 1]
        assert {row.n_synthetic for row in made} == {10 + 128}
        assert {row.loss for row in made} == {"margin"}
        for words in ("separate encoders", "from the teacher", "2 teachers", "128 near pairs", "unlabelled"):
            assert words in made[0].model
        teachers = sorted((r for r in rows if r.teacher_run == r.run_id), key=lambda r: r.seed or 0)
        assert [row.seed for row in teachers] == [0, 1]
        assert {row.teacher_run for row in made} == {teachers[0].run_id}


class TestBiLSTM:
    """02_bilstm beyond its defaults, really executed."""

    def test_each_seed_has_its_own_teacher_and_random_vectors(
        self, pairs: pd.DataFrame, tiny_backbone: str, tmp_path: Path
    ) -> None:
        """The second of two seeds is the student that a run of that seed alone gives, down to its logits."""
        pairs.to_csv(tmp_path / "pairs.csv", index=False)
        task = {
            "task": str(tmp_path / "pairs.csv"),
            "fields": ["query", "passage"],
            "label": "label",
            "group": "group",
        }
        asked = {"teacher_seed": "same", "vectors": "random", "epochs": 1.0}
        students = [
            {"notebook": "02_bilstm", "parameters": {**asked, **more}}
            for more in ({"n_seeds": 2}, {"seed": 1})
        ]
        teacher = {"notebook": "01_teacher", "grid": {"seed": [0, 1]}}
        own = {
            "name": "own",
            "defaults": {**task, "backbone": tiny_backbone, "clock": "none"},
            "stages": [{"required": True, "runs": [teacher]}, {"runs": students}],
        }
        (tmp_path / "own.yaml").write_text(json.dumps(own))
        out = tmp_path / "mine"
        said = io.StringIO()
        with pytest.warns(UserWarning, match="the same student was trained again"):
            status = suite.run_suite(
                tmp_path / "own.yaml", jobs=2, out=out, notebooks_dir=FOLDER, stream=said
            )
        assert status == 0, said.getvalue()
        rows = results.load_results(out)
        teachers = {row.seed: row.run_id for row in rows if row.teacher_run == row.run_id}
        made = [row for row in rows if row.family == "bilstm"]
        expected = [(0, teachers[0]), (1, teachers[1]), (1, teachers[1])]
        assert sorted((row.seed, row.teacher_run) for row in made) == expected
        assert {row.pairs_seen for row in made} == {row.n_train for row in made}  # one epoch
        first, second = (results.load_logits(out, row.run_id).logits for row in made if row.seed == 1)
        np.testing.assert_allclose(first, second, atol=1e-5)
