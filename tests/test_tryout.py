"""Facts about trying texts: scores are the models' own, kept tokens and attention as written out plainly, disagreement by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_tradeoff import HOSTILE, TEACHER, row, teacher

from dipair_lib import models
from dipair_lib.data import loading
from dipair_lib.evaluation import results
from dipair_lib.models.tokens import tokenize
from dipair_lib.reporting import derived, disagreement, selection, tryout, tryout_sides, tryout_widgets
from dipair_lib.reporting.criteria import Limits
from dipair_lib.scoring.scorer import Scorer
from dipair_lib.system import disk

QUERY, CANDIDATES = "red car", ["the old red car", "river", "a warm stone runs in the house"]
LABELS = np.array([0, 1, 0, 1])
LOGITS = {TEACHER: [1.0, 2.0, -3.0, 0.0], "run.tsf": [2.0, 2.0, -1.0, -5.0], "run.cos": [1.0, 2.0, -3.0, 0.5]}


def dual(backbone: str, **settings: Any) -> models.DualEncoder:
    torch.manual_seed(1)
    return models.DualEncoder(backbone, (10, 14), **settings).eval()


@pytest.fixture(scope="module")
def folder(tiny_backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and two students with weights, logits of four test rows, and a task of four texts."""
    out = tmp_path_factory.mktemp("tried")
    torch.manual_seed(0)
    networks: dict[str, Any] = {
        TEACHER: models.CrossEncoder(tiny_backbone, (10, 14)),
        "run.tsf": dual(tiny_backbone, keep=(2, 3), projection=8, head="transformer", pooled=True),
        "run.cos": dual(tiny_backbone, keep=(0, 0), projection=0, head="cosine", pooled=True),
    }
    known = {"read_lengths": "10+14", "parameters": json.dumps({"task": "nowhere.csv"})}
    rows = [
        teacher(**known),
        row("tsf", run_id="run.tsf", head="transformer", stages="1+2", **known),
        row("cos", "dual-encoder", run_id="run.cos", head="cosine", quality=0.89, retained=0.98, **known),
    ]
    for one in rows:
        one = dataclasses.replace(one, n_examples=4)
        logits = np.array(LOGITS[one.run_id], np.float32)[:, None]
        results.save_result(out, one, logits, LABELS, np.arange(4))
        models.save(networks[one.run_id].eval(), results.row_folder(out, one.run_id) / "model")
    return out


@pytest.fixture
def data(folder: Path) -> pd.DataFrame:
    return derived.frame(results.load_results(folder))


def test_a_model_on_a_device_says_what_it_says_on_the_cpu(folder: Path, device: torch.device) -> None:
    frame = tryout.texts_for(2, [QUERY], CANDIDATES)
    for run in ("run.tsf", "run.cos", TEACHER):
        here, there = (tryout.load.__wrapped__(str(folder), run, at) for at in ("cpu", device))
        found, seconds = tryout.score(there, frame)
        np.testing.assert_allclose(
            found, tryout.score(here, frame)[0], atol=0.05
        )  # the encoder may be bfloat16
        assert seconds["together"] > 0
        assert tryout_sides.sides(there, [QUERY, "river"]) == tryout_sides.sides(here, [QUERY, "river"])
        one, other = (tryout_sides.attention(loaded, [QUERY, "river"]) for loaded in (here, there))
        if one is not None:
            pd.testing.assert_frame_equal(one, other, atol=0.05)


class TestScores:
    def test_they_are_the_models_own(self, folder: Path, data: pd.DataFrame) -> None:
        runs = tryout.default_runs(folder, data, selection.select(data, Limits()))
        assert runs == [TEACHER, "run.cos", "run.tsf"]
        loaded, problems = tryout.loadable(folder, runs)
        found, clocks = tryout.scores(loaded, tryout.texts_for(2, [QUERY], CANDIDATES))
        assert not problems
        for run in runs[1:]:
            want = Scorer.load(results.row_folder(folder, run)).score([QUERY] * 3, CANDIDATES)
            assert found[run].tolist() == pytest.approx(want.tolist(), abs=1e-5)
        assert clocks.loc[TEACHER, "texts"] == 0 < clocks.loc["run.tsf", "texts"]
        assert (clocks["together"] == clocks["texts"] + clocks["pairs"]).all()

    def test_each_model_ranks_and_the_first_orders_the_lines(self) -> None:
        frame = tryout.texts_for(2, [QUERY], CANDIDATES)
        table = tryout.ranking(frame, pd.DataFrame({"a": [0.1, 3.0, 2.0], "b": [5.0, 5.0, -1.0]}), ["A", "B"])
        assert table["A"].tolist() == ["1.\u00a0(3.00)", "2.\u00a0(2.00)", "3.\u00a0(0.10)"]
        assert table["B"].tolist() == ["1.\u00a0(5.00)", "3.\u00a0(-1.00)", "1.\u00a0(5.00)"]
        assert table["candidate"].tolist() == ["river", "a warm stone runs in the house", "the old red car"]

    def test_classes_are_named_where_there_is_no_one_score(self) -> None:
        assert tryout.said(np.array([[0.0, 2.0, 1.0], [3.0, 0, 0]])).tolist() == [1, 0]
        assert tryout.said(np.array([[1.0, 3.5]])).tolist() == [2.5]

    def test_what_is_missing_is_said_in_one_line(self, folder: Path) -> None:
        assert "no weights of these models here" in tryout.shown(folder, [], [QUERY], CANDIDATES)
        said = tryout.shown(folder, ["run.absent"], [QUERY], CANDIDATES)
        assert "no weights here (a folder of rows alone cannot score)" in said
        assert "expected 1 texts and one candidate or more, but got 1 and 0" in tryout.shown(
            folder, ["run.tsf"], [QUERY], []
        )

    def test_texts_are_escaped(self, folder: Path) -> None:
        page = tryout.shown(folder, [TEACHER, "run.tsf"], [HOSTILE], [HOSTILE])
        assert "<script" not in page and "<img" not in page and "\x1b" not in page
        assert "&lt;script&gt;" in page


class TestKept:
    def test_first_outputs_and_the_mean(self, folder: Path) -> None:
        query, passage = tryout_sides.sides(tryout.load(str(folder), "run.tsf"), [QUERY, "the river runs"])
        assert query.pieces == ["[CLS]", "red", "car", "[SEP]"]
        assert (query.kept, query.note) == ([0, 1], "the mean of all 4")
        assert [passage.pieces[n] for n in passage.kept] == ["[CLS]", "the", "river"]
        assert "<mark>red</mark> car" in tryout.as_marks(query)

    def test_evenly_spaced_ones(self, tiny_backbone: str) -> None:
        model = dual(tiny_backbone, keep=(3, 3), projection=8, select="even")
        tokens = tokenize(model.tokenizer, ["the old red car runs"], 10)  # 7 pieces
        assert tryout_sides.kept_places(model, tokens, 0) == [0, 3, 6]
        short = tokenize(model.tokenizer, [""], 10)
        assert tryout_sides.kept_places(model, short, 0) == [0, 1]

    @pytest.mark.parametrize("select", ["norm", "learned"])
    def test_those_that_weigh_most(self, tiny_backbone: str, select: str) -> None:
        model = dual(tiny_backbone, keep=(2, 2), projection=8, select=select)
        tokens = tokenize(model.tokenizer, ["the old red car runs"], 10)
        with torch.no_grad():
            hidden = model.encoder(tokens.take(np.array([0]))[0]).last_hidden_state[0]
        if select == "norm":
            want = sorted(hidden.norm(dim=1).argsort(descending=True)[:2].tolist())
        else:
            want = [int((hidden @ query).argmax()) for query in model.queries[0]]
        assert tryout_sides.kept_places(model, tokens, 0) == want

    def test_a_teacher_keeps_nothing(self, folder: Path) -> None:
        assert tryout_sides.sides(tryout.load(str(folder), TEACHER), [QUERY, "river"])[0].kept == []


class TestAttention:
    @pytest.mark.parametrize("settings", [{}, {"residual": "cosine"}, {"head_layers": 2}])
    def test_lines_add_up_to_one_and_are_a_plain_softmax(
        self, tiny_backbone: str, settings: dict[str, Any]
    ) -> None:
        model = dual(tiny_backbone, keep=(2, 6), projection=8, head="transformer", pooled=True, **settings)
        one = tryout_sides.Loaded("tsf", model, model.tokenizer)
        weights = tryout_sides.attention(
            one, [QUERY, "river"]
        )  # the right side has 3 pieces where 6 could be kept
        assert weights is not None
        assert list(weights.index) == ["[mean]", "[CLS]", "red", "[mean]", "[CLS]", "river", "[SEP]"]
        (axes, _) = tryout_sides.heat_map(weights).axes
        crosses = [np.concatenate([line.get_xdata(), line.get_ydata()]).tolist() for line in axes.lines]
        assert crosses == [[0, 1, 2.5, 2.5], [2.5, 2.5, 0, 1]], "lines where the left side's three end"
        assert weights.sum(axis=1).tolist() == pytest.approx([1.0] * 7, abs=1e-5)
        head: Any = model.head.inner
        with torch.no_grad():
            sides = []
            for field, text in enumerate((QUERY, "river")):
                ids, mask = tokenize(one.tokenizer, [text], 10).take(np.array([0]))
                kept = model.encode(ids, mask, field)
                x = kept.vectors[0] + head.position[field] + head.segment[field]
                sides.append(head.enter(x)[kept.mask[0]])
            x = torch.cat(sides)
            for layer in head.layers:
                normed = layer.before_attention(x)
                q, k, v = (
                    normed @ w.T + b
                    for w, b in zip(layer.project.weight.chunk(3), layer.project.bias.chunk(3), strict=True)
                )
                each = [(q[:, h : h + 2] @ k[:, h : h + 2].T / 2**0.5).softmax(1) for h in range(0, 8, 2)]
                mixed = torch.cat([w @ v[:, 2 * n : 2 * n + 2] for n, w in enumerate(each)], dim=1)
                x = x + layer.attended(mixed)
                x = x + layer.down(torch.nn.functional.gelu(layer.up(layer.before_ffn(x))))
        assert torch.stack(each).mean(0).numpy() == pytest.approx(weights.to_numpy(), abs=1e-5)

    def test_other_heads_have_none(self, folder: Path) -> None:
        assert tryout_sides.attention(tryout.load(str(folder), "run.cos"), [QUERY, "river"]) is None
        assert list(tryout.heat_maps(folder, [TEACHER, "run.cos", "run.tsf"], [QUERY, "river"])) == ["tsf"]


class TestDisagreement:
    def test_by_hand(self, folder: Path) -> None:
        pairs = disagreement.disagreement(folder, "run.tsf")
        assert pairs["difference"].tolist() == [1.0, 0.0, 2.0, 5.0]
        label = disagreement.by_label(pairs).set_index("label")
        assert label["difference"].tolist() == [1.5, 2.5]
        assert label["above"].tolist() == [1.5, -2.5]
        texts = pd.DataFrame({"query": ["a", "a b", "a b c", "a b c d"], "passage": ["x"] * 4})
        assert disagreement.by_length(pairs, texts)["difference"].tolist() == [1.0, 0.0, 2.0, 5.0]
        assert disagreement.by_length(pairs, texts)["words"].tolist() == [
            "2 to 2",
            "3 to 3",
            "4 to 4",
            "5 to 5",
        ]
        table = disagreement.worst(pairs, texts, 2)
        assert table["text: query"].tolist() == ["a b c d", "a b c"]
        assert table[["teacher", "student"]].values.tolist() == [[0.0, -5.0], [-3.0, -1.0]]

    def test_logits_of_three_classes_are_centred(self, folder: Path, tmp_path: Path) -> None:
        for run, logits in ((TEACHER, [[1.0, 0, 2]]), ("run.three", [[4.0, 3, 2]])):
            one = dataclasses.replace(teacher() if run == TEACHER else row("three", run_id=run), n_examples=2)
            results.save_result(tmp_path, one, np.array(logits * 2, np.float32), LABELS[:2], np.arange(2))
        # centred: 0 -1 1 and 1 0 -1
        assert disagreement.disagreement(tmp_path, "run.three")["difference"].tolist() == pytest.approx(
            [4 / 3] * 2
        )

    def test_texts_of_changed_data_are_left_out(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = [f"the red car {n},river {n} <b>,{n % 2}" for n in range(40)]
        (tmp_path / "own.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
        parameters = {"task": str(tmp_path / "own.csv"), "fields": ["a", "b"], "label": "y"}
        task = loading.load_run_task(parameters)
        assert disagreement.test_texts(json.dumps(parameters), task.fingerprint).equals(task.test[["a", "b"]])
        with pytest.raises(disk.ResultError, match="texts have changed since this was measured"):
            disagreement.test_texts(json.dumps(parameters), "0" * 64)
        monkeypatch.setattr(disagreement, "test_texts", lambda *_: task.test[["a", "b"]].iloc[:4])
        assert "river" in disagreement.disagreement_shown(folder, "run.tsf")
        assert "<b>," not in disagreement.disagreement_shown(folder, "run.tsf")
        assert "river" not in disagreement.disagreement_shown(folder, "run.tsf", texts=False)

    def test_without_logits_or_data_it_is_one_line(self, folder: Path) -> None:
        assert disagreement.disagreement_shown(folder, "run.absent").count("<p>") == 1
        assert "nowhere.csv" in disagreement.disagreement_shown(folder, "run.cos")


class TestWidgets:
    def test_a_button_scores_what_was_typed(self, folder: Path, data: pd.DataFrame) -> None:
        box = tryout_widgets.TryOut(folder, data, ["run.tsf"], tryout.given_texts(data, QUERY), CANDIDATES)
        assert box.said.value == ""
        box.candidates.value = "an old house\n\nnew grows"
        box.go.click()
        assert "an old house" in box.said.value and "new grows" in box.said.value
        assert len(box.maps.children) == 1

    def test_test_rows_are_shown_when_asked_for(self, folder: Path, data: pd.DataFrame) -> None:
        box = tryout_widgets.Disagreement(folder, data, "run.tsf")
        assert box.said.value == ""
        box.button.click()
        assert "By label" in box.said.value
