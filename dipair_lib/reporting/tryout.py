"""What a reader looks at before trusting a student: its scores of texts of their own beside the teacher's,
what it keeps of each side, and the test pairs on which the two differ most. Texts are shown to who asked for
them; nothing here is written to disk.
"""

from __future__ import annotations

import functools
import html
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dipair_lib import inference, models
from dipair_lib.evaluation import metrics, results
from dipair_lib.inference.device import device_of, encoder_dtype, placed_on, ready, synchronize
from dipair_lib.models.tokens import read
from dipair_lib.reporting import identity, tryout_sides
from dipair_lib.reporting.criteria import Choice
from dipair_lib.reporting.explorer import as_html
from dipair_lib.reporting.explorer_widgets import STYLE
from dipair_lib.reporting.figures import style
from dipair_lib.reporting.tryout_sides import Loaded, Side
from dipair_lib.reporting.wording import plain, si
from dipair_lib.system import disk

TURNS = 3  # on the clock, after one of warm-up
SHORT = 160  # characters of a text in a table


# --- scores -----------------------------------------------------------------------------------------------------------------------


def default_runs(folder: Path | str, data: pd.DataFrame, choice: Choice) -> list[str]:
    """The teacher, the choice (or what is nearest to it) and a transformer head, if there is one: the best of
    those trained in both stages, else the best. As far as their weights are here.
    """
    teacher = identity.teacher_of(data)
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
        raise disk.ResultError(
            f"{path}: no weights here (a folder of rows alone cannot score): run the suite of {run} again to have them"
        )
    model: Any = models.load(path)
    there = device_of(device)
    fast = ready(model, there, encoder_dtype("auto", there))
    return Loaded(results.load_result(folder, run).model, fast, model.tokenizer)


def given_texts(data: pd.DataFrame, query: str) -> list[str]:
    """What stands on every line: a query, as often as the task's texts have fields before the last; of single
    texts nothing.
    """
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
    """Logits [lines, outputs] of texts, one field per column, and seconds (medians): ``texts`` (tokenise,
    encode, prepare; all that is done once per text), ``pairs`` (combine; of a cross-encoder everything) and
    ``together``.
    """
    turns, device = [], placed_on(one.model)
    for _ in range(TURNS + 1):
        begun = time.perf_counter()
        texts = read(one.tokenizer, frame, list(frame.columns), one.model.read_lengths)
        with torch.inference_mode():
            if one.model.per_pair:
                between = begun
                logits = inference.predict(one.model, texts, device=device, what="")
            else:
                prepared = [
                    inference.prepare_all(one.model, side, field, what="")
                    for field, side in enumerate(texts.tokens)
                ]
                synchronize(device)
                between = time.perf_counter()
                logits = inference.combine_all(one.model, prepared, texts)
        turns.append((between - begun, time.perf_counter() - between))
    once, pair = np.median(turns[1:], axis=0)
    return logits, {"texts": float(once), "pairs": float(pair), "together": float(once + pair)}


def scores(loaded: Mapping[str, Loaded], frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every model's scores of the same texts, and their clocks.

    Returns:
        A line per candidate, a column per run: the score (with three classes or more: the class found). A
        line per run: ``model`` and the seconds of ``score``.
    """
    found, clocks = {}, {}
    for run, one in loaded.items():
        logits, seconds = score(one, frame)
        found[run] = said(logits)
        clocks[run] = {"model": one.name, **seconds}
    return pd.DataFrame(found, index=frame.index), pd.DataFrame.from_dict(clocks, orient="index")


def said(logits: np.ndarray) -> np.ndarray:
    """[n]: what a model says of each row: the log-odds of class 1, a grade, or of three classes and more the
    likeliest.
    """
    return metrics.binary_score(logits) if logits.shape[1] <= 2 else metrics.predicted_class(logits)


def ranking(frame: pd.DataFrame, found: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The candidates for people, in the order of the first model (the teacher); each score with its place in
    that model's own order.
    """
    order = found.iloc[:, 0].sort_values(ascending=False, kind="stable").index
    places = found.rank(ascending=False, method="min").astype(int)
    table = pd.DataFrame(
        {"candidate": [plain(text, SHORT) for text in frame["candidate"]]}, index=frame.index
    )
    for number, (run, name) in enumerate(zip(found.columns, names, strict=True)):
        cells = [f"{place}.\u00a0({value:.2f})" for place, value in zip(places[run], found[run], strict=True)]
        if pd.api.types.is_integer_dtype(found[run]):
            cells = [f"class {value}" for value in found[run]]
        table.insert(number, plain(name, style.NAME_WIDTH), cells, allow_duplicates=True)
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


def shown(
    folder: Path | str,
    runs: Sequence[str],
    given: Sequence[str],
    candidates: Sequence[str],
    device: str = "auto",
) -> str:
    """Ranking, clocks, and what each model keeps of the first texts, as HTML, everything escaped; or why
    there is nothing to show.
    """
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
        marks = "<br>".join(map(as_marks, tryout_sides.sides(one, first)))
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
        weights = tryout_sides.attention(one, texts) if len(texts) == len(one.model.read_lengths) else None
        if weights is not None:
            buffer = io.BytesIO()
            tryout_sides.heat_map(weights).savefig(buffer, format="png", facecolor="white")
            found[one.name] = buffer.getvalue()
    return found
