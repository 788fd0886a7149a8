"""What a reader looks at before trusting a student: its scores of texts of their own beside the teacher's, what it keeps of each side, and
the test pairs on which the two differ most. Texts are shown to who asked for them; nothing here is written to disk.
"""

from __future__ import annotations

import functools
import html
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from . import models, progress, quality, results, tradeoff, training
from .explorer import STYLE, as_html, choose
from .models import BiLSTM, CrossEncoder, DualEncoder
from .models.heads import ResidualHead, TransformerHead, join
from .models.tokens import Tokens, read, tokenize
from .tradeoff import Choice, plain, si
from .training.device import device_of, encoder_dtype, moved, placed_on, ready, synchronize

TURNS = 3  # on the clock, after one of warm-up
WORST = 20
SHORT = 160  # characters of a text in a table


class Loaded(NamedTuple):
    """A model of a results folder, ready to score."""

    name: str
    model: Any
    tokenizer: Any


# --- scores -----------------------------------------------------------------------------------------------------------------------


def default_runs(folder: Path | str, data: pd.DataFrame, choice: Choice) -> list[str]:
    """The teacher, the choice (or what is nearest to it) and a transformer head, if there is one: the best of those trained in both stages,
    else the best. As far as their weights are here."""
    teacher = tradeoff.teacher_of(data)
    heads = data[data["head"].astype(str).str.startswith("transformer")]
    heads = heads.assign(both=heads["stages"] != "1").sort_values(["both", "quality"], ascending=False)
    wanted = [
        None if teacher is None else teacher["run_id"],
        choice.winner or choice.nearest,
        *heads.index[:1],
    ]
    here = with_weights(folder, data)
    return [run for run in dict.fromkeys(wanted) if run in here]


def with_weights(folder: Path | str, data: pd.DataFrame) -> list[str]:
    """The networks whose weights are in the folder, by falling quality."""
    networks = data[data["family"].isin(["cross-encoder", "dipair", "dual-encoder", "bilstm"])]
    ordered = networks.sort_values("quality", ascending=False, kind="stable").index
    return [run for run in ordered if (results.row_folder(folder, run) / "model" / "config.json").is_file()]


@functools.lru_cache(maxsize=8)
def load(folder: str, run: str, device: str = "auto") -> Loaded:
    """A run's model on a device, its encoder in the faster dtype.

    Raises:
        ResultError: its weights are not here. ModelError: they are damaged.
    """
    path = results.row_folder(folder, run) / "model"
    if not (path / "config.json").is_file():
        raise results.ResultError(
            f"{path}: no weights here (a folder of rows alone cannot score): run the suite of {run} again to have them"
        )
    model: Any = models.load(path)
    there = device_of(device)
    fast = ready(model, there, encoder_dtype("auto", there))
    return Loaded(results.load_result(folder, run).model, fast, models.tokenizer_of(model))


def given_texts(data: pd.DataFrame, query: str) -> list[str]:
    """What stands on every line: a query, as often as the task's texts have fields before the last; of single texts nothing."""
    return [query] * (int(data["n_fields"].max()) - 1)


def loadable(
    folder: Path | str, runs: Sequence[str], device: str = "auto"
) -> tuple[dict[str, Loaded], list[str]]:
    """The models that load, by run, and of each other one a line that says why not."""
    found, problems = {}, []
    for run in runs:
        try:
            found[run] = load(str(folder), run, device)
        except ValueError as error:
            problems.append(f"{run}: {error}")
    return found, problems


def texts_for(fields: int, given: Sequence[str], candidates: Sequence[str]) -> pd.DataFrame:
    """A line per candidate, which is the last field; the other fields are the same on each."""
    if len(given) != fields - 1 or not len(candidates):
        raise ValueError(
            f"expected {fields - 1} texts and one candidate or more, but got {len(given)} and {len(candidates)}"
        )
    return pd.DataFrame({**{str(n): text for n, text in enumerate(given)}, "candidate": list(candidates)})


def score(one: Loaded, frame: pd.DataFrame) -> tuple[np.ndarray, dict[str, float]]:
    """Logits [lines, outputs] of texts, one field per column, and seconds (medians): ``texts`` (tokenise, encode, prepare; all that is done
    once per text), ``pairs`` (combine; of a cross-encoder everything) and ``together``."""
    turns, device = [], placed_on(one.model)
    for _ in range(TURNS + 1):
        begun = time.perf_counter()
        texts = read(one.tokenizer, frame, list(frame.columns), one.model.read_lengths)
        with torch.inference_mode():
            if isinstance(one.model, CrossEncoder):
                between = begun
                logits = training.predict(one.model, texts, device=device, what="")
            else:
                prepared = [
                    training.prepare_all(one.model, side, field, what="")
                    for field, side in enumerate(texts.tokens)
                ]
                synchronize(device)
                between = time.perf_counter()
                logits = training.combine_all(one.model, prepared, texts)
        turns.append((between - begun, time.perf_counter() - between))
    once, pair = np.median(turns[1:], axis=0)
    return logits, {"texts": float(once), "pairs": float(pair), "together": float(once + pair)}


def scores(loaded: Mapping[str, Loaded], frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every model's scores of the same texts, and their clocks.

    Returns:
        A line per candidate, a column per run: the score (with three classes or more: the class found). A line per run: ``model`` and the
        seconds of ``score``.
    """
    found, clocks = {}, {}
    for run, one in loaded.items():
        logits, seconds = score(one, frame)
        found[run] = said(logits)
        clocks[run] = {"model": one.name, **seconds}
    return pd.DataFrame(found, index=frame.index), pd.DataFrame.from_dict(clocks, orient="index")


def said(logits: np.ndarray) -> np.ndarray:
    """[n]: what a model says of each row: the log-odds of class 1, a grade, or of three classes and more the likeliest."""
    return quality.binary_score(logits) if logits.shape[1] <= 2 else quality.predicted_class(logits)


def ranking(frame: pd.DataFrame, found: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The candidates for people, in the order of the first model (the teacher); each score with its place in that model's own order."""
    order = found.iloc[:, 0].sort_values(ascending=False, kind="stable").index
    places = found.rank(ascending=False, method="min").astype(int)
    table = pd.DataFrame(
        {"candidate": [plain(text, SHORT) for text in frame["candidate"]]}, index=frame.index
    )
    for number, (run, name) in enumerate(zip(found.columns, names, strict=True)):
        cells = [f"{place}.\u00a0({value:.2f})" for place, value in zip(places[run], found[run], strict=True)]
        if pd.api.types.is_integer_dtype(found[run]):
            cells = [f"class {value}" for value in found[run]]
        table.insert(number, plain(name, tradeoff.NAME_WIDTH), cells, allow_duplicates=True)
    return table.loc[order]


def clocks_shown(clocks: pd.DataFrame) -> pd.DataFrame:
    """The clocks for people."""
    return pd.DataFrame(
        {
            "model": [plain(name) for name in clocks["model"]],
            "once per text, all texts": [si(s, "s") if s else "nothing" for s in clocks["texts"]],
            "per pair, all pairs": [si(s, "s") for s in clocks["pairs"]],
            "together": [si(s, "s") for s in clocks["together"]],
        }
    )


# --- what is kept -----------------------------------------------------------------------------------------------------------------


class Side(NamedTuple):
    """A text as a model reads it.

    Attributes:
        pieces: what is read, special ones included. kept: places of those whose outputs are kept. note: what else is kept, or how.
    """

    pieces: list[str]
    kept: list[int]
    note: str


def sides(one: Loaded, texts: Sequence[str]) -> list[Side]:
    """What a model reads and keeps of each field's text."""
    return [side(one, text, field) for field, text in enumerate(texts)]


def side(one: Loaded, text: str, field: int) -> Side:
    """What a model reads and keeps of one text."""
    tokens = tokenize(one.tokenizer, [text], one.model.read_lengths[field])
    pieces = pieces_of(one.tokenizer, tokens)
    if isinstance(one.model, CrossEncoder):
        return Side(pieces, [], "read together with the other side")
    if isinstance(one.model, BiLSTM):
        return Side(pieces, [], "the last state of each direction")
    mean = f"the mean of all {len(pieces)}" if one.model.pooled else ""
    learned = "the pieces that the learned queries weigh most" if one.model.select == "learned" else ""
    return Side(pieces, kept_places(one.model, tokens, field), " and ".join(n for n in (learned, mean) if n))


def pieces_of(tokenizer: Any, tokens: Tokens) -> list[str]:
    """Word pieces, or of a BiLSTM words, as text."""
    ids = tokens.ids.tolist()
    if isinstance(tokenizer, models.WordTokenizer):
        words = {number: word for word, number in tokenizer.index.items()}
        return [words.get(number, "[unknown]") for number in ids]
    return [str(piece) for piece in tokenizer.convert_ids_to_tokens(ids)]


def kept_places(model: DualEncoder, tokens: Tokens, field: int) -> list[int]:
    """Which outputs of one text a student keeps; of learned queries, for each the piece it weighs most."""
    k = min(model.keep[field], len(tokens.ids))
    if model.select == "first" or k == 0:
        return list(range(k))
    with torch.inference_mode():
        ids, mask = moved(tokens.take(np.array([0])), placed_on(model))
        found = model.outputs_of(ids, mask, field)
        if model.select == "learned":
            return (model.queries[field] @ found.hidden[0].T).argmax(1).tolist()
        return model.places(found.hidden, found.mask, found.received, k)[0].tolist()


def attention(one: Loaded, texts: Sequence[str]) -> pd.DataFrame | None:
    """What the tokens a transformer head kept attend to in its last layer, mean over its attention heads: a line per token, columns alike,
    each line adds up to one. The first line is what the score is read from. ``attrs["sides"]`` counts the tokens of each side. None for
    other heads."""
    model = one.model
    head = getattr(model, "head", None)
    inner = head.head if isinstance(head, ResidualHead) else head
    if not isinstance(inner, TransformerHead):
        return None
    prepared, names, ends = [], [], []
    with torch.inference_mode():
        for field, text in enumerate(texts):
            tokens = tokenize(one.tokenizer, [text], model.read_lengths[field])
            batch = moved(tokens.take(np.array([0])), placed_on(model))
            prepared.append(model.prepare(model.encode(*batch, field), field))
            pieces = pieces_of(one.tokenizer, tokens)
            kept = [pieces[place] for place in kept_places(model, tokens, field)]
            if model.select == "learned":
                kept = [f"query {number}" for number in range(model.keep[field])]
            names += [*(["[mean]"] if model.pooled else []), *kept]
            ends.append(len(names))
        if isinstance(head, ResidualHead):
            prepared = head.parts(prepared)[0]
        real = join([tensors[-1] for tensors in prepared])[0]
        weights = inner.attention(*prepared)[0].mean(0)[real][:, real].cpu()
    found = pd.DataFrame(weights.numpy(), index=names, columns=names)
    found.attrs["sides"] = np.diff(ends, prepend=0).tolist()
    return found


def heat_map(weights: pd.DataFrame) -> Figure:
    """Attention as a small picture, a line where one side ends and the next begins."""
    size = 1.6 + 0.26 * len(weights)
    figure = Figure(figsize=(size + 1.0, size), dpi=90, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights.to_numpy(), cmap="Blues", vmin=0)
    for end in np.cumsum(weights.attrs["sides"])[:-1] - 0.5:
        axes.axhline(end, color="#d55e00", linewidth=1.2)
        axes.axvline(end, color="#d55e00", linewidth=1.2)
    names = [plain(name, 14).replace("$", r"\$") for name in weights.index]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("attended to (lines part the two texts)", fontsize=8)
    axes.set_ylabel("from (the score is read from the first)", fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.7).ax.tick_params(labelsize=7)
    return figure


def shown(
    folder: Path | str,
    runs: Sequence[str],
    given: Sequence[str],
    candidates: Sequence[str],
    device: str = "auto",
) -> str:
    """Ranking, clocks, and what each model keeps of the first texts, as HTML, everything escaped; or why there is nothing to show."""
    loaded, problems = loadable(folder, runs, device)
    if not loaded:
        problems.append(
            f"{folder}: no weights of these models here: run the suite again to try them on texts"
        )
        return "".join(map(line, problems))
    try:
        frame = texts_for(len(next(iter(loaded.values())).model.read_lengths), given, candidates)
    except ValueError as error:
        return line(error)
    found, clocks = scores(loaded, frame)
    first = frame.iloc[0].tolist()
    parts = [
        STYLE,
        *map(line, problems),
        as_html(ranking(frame, found, clocks["model"].tolist())),
        "<p><b>Times</b>, medians, from raw text on</p>",
        as_html(clocks_shown(clocks)),
        f"<p><b>What is kept</b> (marked) of {' and of '.join(f'“{short(text)}”' for text in first)}</p>",
    ]
    for one in loaded.values():
        marks = "<br>".join(map(as_marks, sides(one, first)))
        parts.append(f"<p>{html.escape(plain(one.name))}<br>{marks}</p>")
    return "".join(parts)


def line(text: object) -> str:
    """A message, escaped."""
    return f"<p>{html.escape(plain(text, 400))}</p>"


def short(text: str) -> str:
    """The beginning of a text, escaped."""
    return html.escape(plain(text, 60))


def as_marks(one: Side) -> str:
    """A side's pieces, escaped, what is kept of them marked."""
    pieces = [html.escape(plain(piece, 40)) for piece in one.pieces]
    said = " ".join(f"<mark>{piece}</mark>" if n in one.kept else piece for n, piece in enumerate(pieces))
    return said + (f" <i>({html.escape(one.note)})</i>" if one.note else "")


def heat_maps(
    folder: Path | str, runs: Sequence[str], texts: Sequence[str], device: str = "auto"
) -> dict[str, bytes]:
    """PNG by model name of each transformer head's attention; of what does not load ``shown`` says why."""
    found = {}
    for one in loadable(folder, runs, device)[0].values():
        weights = attention(one, texts) if len(texts) == len(one.model.read_lengths) else None
        if weights is not None:
            buffer = io.BytesIO()
            heat_map(weights).savefig(buffer, format="png", facecolor="white")
            found[one.name] = buffer.getvalue()
    return found


# --- where they disagree ----------------------------------------------------------------------------------------------------------


def disagreement(folder: Path | str, run: str) -> pd.DataFrame:
    """A student beside its teacher on every test row: ``label``, ``teacher`` and ``student`` (see ``said``), ``difference``: of their raw
    scores, absolute; with three classes or more the mean over the classes, each row's logits centred.

    Raises:
        ResultError: one of the two has no logits here, or they are of other rows.
    """
    row = results.load_result(folder, run)
    if not row.teacher_run:
        raise results.ResultError(f"{run}: expected a student, but it names no teacher")
    own, other = (results.load_logits(folder, one) for one in (run, row.teacher_run))
    if not np.array_equal(own.labels, other.labels):
        raise results.ResultError(f"{row.teacher_run}: was measured on other examples than {run}")
    a, b = (
        (said(x)[:, None] if x.shape[1] <= 2 else x - x.mean(1, keepdims=True))
        for x in (own.logits, other.logits)
    )
    return pd.DataFrame(
        {
            "label": own.labels,
            "teacher": said(other.logits),
            "student": said(own.logits),
            "difference": np.abs(a - b).mean(1),
        }
    )


@functools.lru_cache(maxsize=2)
def test_texts(parameters: str, sha256: str) -> pd.DataFrame:
    """The texts of a row's test split, a column per field, from its task, which is loaded again.

    Raises:
        ResultError: the task's data is no longer what was measured. TaskError: it cannot be loaded.
    """
    task = results.load_run_task(json.loads(parameters))
    if task.fingerprint != sha256:
        raise results.ResultError(
            f"{task.name}: its texts have changed since this was measured (expected sha256 {sha256[:12]}, but got "
            f"{task.fingerprint[:12]}): texts are left out"
        )
    return task.test[list(task.fields)]


def summary(pairs: pd.DataFrame, by: pd.Series, name: str) -> pd.DataFrame:
    """Test rows, mean absolute difference, and how far the student is above the teacher, by a property of the rows."""
    grouped = pairs.assign(above=pairs["student"] - pairs["teacher"]).groupby(by, observed=True)
    table = grouped.agg(
        rows=("difference", "size"), difference=("difference", "mean"), above=("above", "mean")
    )
    return table.rename_axis(name).reset_index()


def by_label(pairs: pd.DataFrame) -> pd.DataFrame:
    """``summary`` by label; of graded ones with many values by their quartiles."""
    label = pairs["label"]
    return summary(pairs, label if label.nunique() <= 12 else quartiles(label), "label")


def by_length(pairs: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """``summary`` by quartiles of the words of all fields together."""
    words = texts.map(lambda text: len(text.split())).sum(axis=1).reset_index(drop=True)
    return summary(pairs, quartiles(words), "words")


def quartiles(values: pd.Series) -> pd.Series:
    """The quarter of the rows that each value belongs to, named by its least and largest: "11 to 25"."""
    quarter = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values)
    names = {n: f"{part.min():g} to {part.max():g}" for n, part in values.groupby(quarter)}
    named = [names[n] for n in quarter]
    return pd.Series(pd.Categorical(named, list(names.values()), ordered=True), index=values.index)


def worst(pairs: pd.DataFrame, texts: pd.DataFrame, n: int = WORST) -> pd.DataFrame:
    """The rows that differ most, both scores and the beginnings of their texts beside them."""
    first = pairs.sort_values("difference", ascending=False, kind="stable")[:n]
    said = {name: [plain(text, SHORT) for text in texts[name].iloc[first.index]] for name in texts}
    return pd.concat([first.round(2), pd.DataFrame(said, index=first.index).add_prefix("text: ")], axis=1)


def disagreement_shown(folder: Path | str, run: str, texts: bool = True) -> str:
    """Where a student and its teacher disagree, as HTML, everything escaped.

    Args:
        texts: whether to load the task's texts, for the lengths and the rows that differ most; without, nothing but numbers is shown.
    """
    try:
        pairs = disagreement(folder, run)
        parts = [STYLE, "<p><b>By label</b></p>", as_html(by_label(pairs).round(2))]
    except ValueError as error:
        return line(error)
    if texts:
        try:
            row = results.load_result(folder, run)
            own = test_texts(row.parameters, row.data_sha256 or "")
            parts += ["<p><b>By words of a row's texts</b></p>", as_html(by_length(pairs, own).round(2))]
            parts += [f"<p><b>The {WORST} rows that differ most</b></p>", as_html(worst(pairs, own))]
        except ValueError as error:
            parts.append(line(error))
    return "".join(parts)


# --- widgets ----------------------------------------------------------------------------------------------------------------------


class TryOut(widgets.VBox):
    """Texts to type or to take from the test split, and what the chosen models say of them."""

    def __init__(
        self,
        folder: Path | str,
        data: pd.DataFrame,
        runs: Sequence[str],
        given: Sequence[str],
        candidates: Sequence[str],
        device: str = "auto",
    ) -> None:
        self.folder, self.data, self.device, self.turn = folder, data, device, 0
        wide = {"description_width": "9em"}
        full = widgets.Layout(width="100%")
        names = [(plain(data.loc[run, "model"], 60), run) for run in with_weights(folder, data)]
        self.models = widgets.SelectMultiple(
            options=names, value=tuple(runs), description="models", rows=6, style=wide, layout=full
        )
        self.given = [
            widgets.Text(
                value=text,
                description="query" if len(given) == 1 else f"text {n + 1}",
                style=wide,
                layout=full,
            )
            for n, text in enumerate(given)
        ]
        self.candidates = widgets.Textarea(
            value="\n".join(candidates), description="texts, one a line", rows=5, style=wide, layout=full
        )
        self.go = widgets.Button(description="Score", button_style="primary")
        self.pick = widgets.Button(description="Take a test query")
        self.said, self.maps = widgets.HTML(), widgets.VBox()
        self.go.on_click(self.score)
        self.pick.on_click(self.take)
        buttons = widgets.HBox([self.go, self.pick])
        super().__init__([self.models, *self.given, self.candidates, buttons, self.said, self.maps])

    def score(self, _: Any = None) -> None:
        """Show what the chosen models say of the texts."""
        given = [box.value for box in self.given]
        candidates = [line for line in self.candidates.value.splitlines() if line.strip()]
        runs = list(self.models.value)
        self.said.value = shown(self.folder, runs, given, candidates, self.device)
        maps = heat_maps(self.folder, runs, [*given, *candidates[:1]], self.device)
        self.maps.children = [
            widgets.HTML(
                f"<p>Attention in the head of {html.escape(plain(name))}</p>"
                + str(progress.image(png, f"attention between the kept tokens of {plain(name)}").data)
            )
            for name, png in maps.items()
        ]

    def take(self, _: Any = None) -> None:
        """Fill in the next query of the test split with its own candidates."""
        first = self.data.dropna(subset=["data_sha256"]).iloc[0]
        try:
            texts = test_texts(first["parameters"], first["data_sha256"])
        except ValueError as error:
            self.said.value = line(error)
            return
        *others, last = texts.columns
        keys = texts[others].drop_duplicates() if others else texts[:1]
        key = keys.iloc[self.turn % len(keys)]
        self.turn += 1
        for box, name in zip(self.given, others, strict=True):
            box.value = key[name]
        rows = (texts[others] == key[others]).all(axis=1) if others else texts.index < 20
        self.candidates.value = "\n".join(" ".join(text.split()) for text in texts.loc[rows, last])
        self.score()


class Disagreement(widgets.VBox):
    """A student to choose, and a button: texts are shown when they are asked for, so that none stand in a notebook that was only run."""

    def __init__(self, folder: Path | str, data: pd.DataFrame, run: str = "") -> None:
        self.folder = folder
        students = data[data["teacher_run"].notna() & ~data["teacher"]]
        names = [(plain(model, 60), one) for one, model in students["model"].items()]
        self.student = choose(
            "student", names, run if run in students.index else names[0][1] if names else None
        )
        self.button = widgets.Button(description="Show the pairs", button_style="primary", disabled=not names)
        self.said = widgets.HTML()
        self.button.on_click(self.show)
        super().__init__([self.student, self.button, self.said])

    def show(self, _: Any = None) -> None:
        """Show where the chosen student and its teacher disagree."""
        self.said.value = disagreement_shown(self.folder, self.student.value)
