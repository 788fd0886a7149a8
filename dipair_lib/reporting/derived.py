"""Result rows as a frame with all that is derived from them; nothing derived is ever stored."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dipair_lib.evaluation import bootstrap, gap
from dipair_lib.evaluation.schema import Result
from dipair_lib.reporting import guard, identity, wording

REUSE = 1000.0  # pairs that share a text, where an end-to-end price is stated without another number


def frame(rows: Iterable[Result], reuse: float = REUSE, folder: Path | str | None = None) -> pd.DataFrame:
    """Rows with their derived columns, indexed by run_id, in the order given. A model trained with several
    seeds has one line, `seeds` says how many there are: the first clocked one's, with the mean quality over
    the seeds where their raw logits are at hand (`averaged`); elsewhere its own, which is no better than the
    others but by chance.

    Args:
        folder: results folder with the raw logits of the rows, from which the intervals of means over seeds
            are drawn.

    Derived: `pairs_per_s` (texts cached; `_low`, `_high` from the quartiles of the clock),
    `pairs_per_s_reuse` (each text encoded once for `reuse` pairs), `pairs_per_s_once` (for one pair),
    `text_s` (tokenise and encode one text), `speedup` (against the teacher at this row's dtype, in this row's
    clock session), `speedup_vs_fastest` (against the teacher at its fastest dtype), the same two with
    `_reuse`, `peak_fraction` (of the measured matrix peak), `kept_tokens` (over all fields), `seeds` (how
    many seeds of this model are here), `runs` (those whose quality the line is), `given` (their mean is that
    of one teacher's students), `teacher`, `guard` (why no share of its teacher counts, or nothing: see
    ``guards``), `rising` (a seed's dev metric was still rising when its budget ended), `training_notes` (of
    all its seeds), `pareto`; `gap` (share of the way from the best untrained row, `floor`, to the teacher
    that a row's quality has gone; `_low`, `_high`: see ``gap.closed``).

    Single texts (`n_fields` 1) are encoded for one answer each: nothing is cached, `pairs_per_s` counts texts
    and holds their encoding, and `reuse` is 1.

    Raises ValueError when two rows share a run_id.
    """
    rows = list(rows)
    table = pd.DataFrame(
        [dataclasses.asdict(row) for row in rows],
        columns=[field.name for field in dataclasses.fields(Result)],
    )
    twice = table["run_id"][table["run_id"].duplicated()]
    if len(twice):
        raise ValueError(f"every row needs a run_id of its own, but {twice.iloc[0]!r} comes more than once")
    for field in dataclasses.fields(Result):
        kind = str(field.type)
        if "str" not in kind and ("float" in kind or "int" in kind):
            table[field.name] = pd.to_numeric(table[field.name]).astype(float)
    table.index = pd.Index(table["run_id"], name=None)

    measured = table["family"] != "published"
    combine = table["combine_s_per_pair"].where(measured & (table["combine_s_per_pair"] > 0))
    # An encode clock of null beside a combine clock says that nothing is done once per text (a
    # cross-encoder).
    encode = table["encode_s_per_text"]
    table["text_s"] = (encode + table["tokenize_s_per_text"].fillna(0)).where(encode.notna(), 0.0)
    table["text_s"] = table["text_s"].where(combine.notna())
    fields_here = table["read_lengths"].map(
        lambda text: str(text).count("+") + 1 if wording.known(text) else 0
    )
    table["n_fields"] = fields_here.groupby(table["task"]).transform("max").where(lambda n: n > 0, 2)
    alone = table["n_fields"] == 1
    with_text = table["text_s"].where(alone, 0.0)
    table["pairs_per_s"] = 1 / (combine + with_text)
    table["pairs_per_s_low"] = 1 / (table["combine_s_per_pair_q3"].where(combine.notna()) + with_text)
    table["pairs_per_s_high"] = 1 / (table["combine_s_per_pair_q1"].where(combine.notna()) + with_text)
    table["bytes_per_text"] = table["bytes_per_text"].mask(alone & table["bytes_per_text"].notna(), 0.0)
    # A cross-encoder keeps nothing of a text.
    table["bytes_per_text"] = table["bytes_per_text"].mask(table["family"].eq("cross-encoder"), 0.0)
    table["pairs_per_s_reuse"] = pairs_per_s_at(table, reuse)
    table["pairs_per_s_once"] = pairs_per_s_at(table, 1)
    for name, price in (
        ("teacher_s_per_pair", "speedup"),
        ("teacher_fastest_s_per_pair", "speedup_vs_fastest"),
    ):
        table[price] = table[name] * table["pairs_per_s"]
        table[price.replace("speedup", "speedup_reuse")] = table[name] * table["pairs_per_s_reuse"]
    table["peak_fraction"] = table["flops_per_pair"] * table["pairs_per_s"] / (table["peak_gflops"] * 1e9)
    table["kept_tokens"] = [
        tokens_kept(keep, n) for keep, n in zip(table["keep"], table["n_fields"], strict=True)
    ]
    table["read_tokens"] = [tokens_kept(length, 1) for length in table["read_lengths"]]
    tell_apart(table, identity.teacher_ages((row for row in rows if row.teacher_run != row.run_id), rows))
    same = table.groupby(identity.ONE_MODEL, dropna=False)["seed"]
    table["seeds"] = same.transform("nunique")
    table["averaged"] = False
    first = table.assign(unclocked=combine.isna()).sort_values(["unclocked", "seed"], kind="stable")
    chosen = first[(first["seeds"] <= 1) | ~first.duplicated(identity.ONE_MODEL)].index
    if folder is not None:
        average(table, [run for run in chosen if table.loc[run, "seeds"] > 1], rows, folder)
    number = table.groupby(identity.ONE_MODEL, dropna=False).ngroup()
    by_run = {row.run_id: row for row in rows}
    judged = guard.guards(rows, folder)
    table["guard"] = guard.failed_teachers(rows, judged)
    table["guard"] = table["guard"].groupby(number).transform("max")
    table["rising"] = table["dev_rising"].eq(True).groupby(number).transform("any")
    notes = table["training_notes"].groupby(number).agg(lambda said: "; ".join(dict.fromkeys(said.dropna())))
    table["training_notes"] = number.map(notes)
    table["given"] = table["averaged"] & table["teacher_run"].groupby(number).transform("nunique").eq(1)
    seeds = table["run_id"].groupby(number).agg(tuple)
    table["runs"] = [
        seeds[n] if mean else (run,)
        for run, n, mean in zip(table.index, number, table["averaged"], strict=True)
    ]
    table = table[table.index.isin(chosen)].copy()
    sure = {run for run, one in judged.items() if one.sure}
    closed = gap.closed([[by_run[one] for one in runs] for runs in table["runs"]], rows, sure, folder)
    table[GAP] = np.array([one.share for one in closed], float).reshape(-1, 3)
    table["floor"] = [one.floor for one in closed]
    combine, measured = combine[table.index], measured[table.index]
    table["noisy"] = table["noisy"].eq(True) & combine.notna()
    table["teacher"] = table.index.isin([row.run_id for row in identity.teachers(rows)])
    table["pareto"] = False
    for _, part in table[measured & (table["family"] != "constant")].groupby("task"):
        table.loc[part.index, "pareto"] = pareto(part)
    table.attrs["reuse"] = float(reuse)
    return table


def tell_apart(table: pd.DataFrame, ages: Mapping[str, int]) -> None:
    """Name what was trained differently and is called the same: "DE-Cos" becomes "DE-Cos, stage2_epochs 1",
    or "DE-Cos, teacher 1 before the newest".

    Args:
        ages: of the teachers, see ``identity.teacher_ages``.
    """
    for _, rows in table[table["family"] != "published"].groupby(identity.ONE_MODEL, dropna=False):
        chosen = [identity.parameters_of(text) for text in rows["parameters"]]
        differ = [
            name
            for name in dict.fromkeys(itertools.chain(*chosen))
            if len({str(c.get(name)) for c in chosen}) > 1
        ]
        old = [ages.get(str(run), 0) for run in rows["teacher_run"]]
        for run, one, age in zip(rows.index, chosen, old, strict=True):
            said = [wording.plain(f"{name} {one[name]}", 40) for name in differ if name in one]
            said += [identity.generation(age)] if age and len(set(old)) > 1 else []
            table.loc[run, "model"] = ", ".join([str(table.loc[run, "model"]), *said])


def average(table: pd.DataFrame, chosen: list[str], rows: list[Result], folder: Path | str) -> None:
    """Put means over the seeds in place of the chosen rows' own quality and share of the teacher, with 95 %
    intervals over test groups and seeds. A model keeps its own where a seed's logits cannot be read or belong
    to other test rows.
    """
    by_run = {row.run_id: row for row in rows}
    number = table.groupby(identity.ONE_MODEL, dropna=False).ngroup()
    together = {run: [by_run[one] for one in table.index[number == number[run]]] for run in chosen}
    named = {row.run_id: row for seeds in together.values() for row in seeds if row.quality is not None}
    named |= {row.teacher_run: by_run[row.teacher_run] for row in named.values() if row.teacher_run in by_run}
    drawn = bootstrap.draw_rows(folder, named.values())
    for run, seeds in together.items():
        test = drawn[run].test if run in drawn else ""
        if not all(row.run_id in drawn and drawn[row.run_id].test == test for row in seeds):
            continue
        values = [float(row.quality or 0.0) for row in seeds]
        draws = [drawn[row.run_id].draws for row in seeds]
        table.loc[run, identity.QUALITY] = bootstrap.mean_over_seeds(values, draws)
        table.loc[run, "averaged"] = True
        teachers = [row.teacher_run or "" for row in seeds]
        if all(one in drawn and drawn[one].test == test for one in teachers):
            taught = [(float(by_run[one].quality or 0.0), drawn[one].draws) for one in teachers]
            table.loc[run, RETAINED] = bootstrap.share_over_seeds(values, draws, taught)


GAP = ["gap", "gap_low", "gap_high"]
RETAINED = ["retained", "retained_low", "retained_high"]


def pairs_per_s_at(table: pd.DataFrame, reuse: float) -> pd.Series:
    """Pairs per second, encoding included, when every text takes part in `reuse` pairs; NaN where not
    clocked.
    """
    if not reuse >= 1:
        raise ValueError(f"reuse is the number of pairs that share a text, at least 1, but got {reuse}")
    texts = table["n_fields"].where(
        table["n_fields"] > 1, 0
    )  # a single text's encoding is in its rate already
    return 1 / (1 / table["pairs_per_s"] + texts * table["text_s"] / reuse)


def pareto(table: pd.DataFrame, x: str = "pairs_per_s", y: str = "quality") -> pd.Series:
    """Flags of the rows that no other row beats on both axes; directions from AXES, rows with a null are
    never on it.
    """
    signs = [1.0 if wording.AXES[name].better == "higher" else -1.0 for name in (x, y)]
    points = table[[x, y]].to_numpy(dtype=float) * signs
    flags = np.isfinite(points).all(axis=1)
    for i in np.flatnonzero(flags):
        others = points[np.isfinite(points).all(axis=1)]
        flags[i] = not ((others >= points[i]).all(axis=1) & (others > points[i]).any(axis=1)).any()
    return pd.Series(flags, index=table.index)


def tokens_kept(keep: object, n_fields: float) -> float:
    """Tokens over all fields: 8 with two fields -> 16, "8+16" -> 24, null or unreadable -> NaN."""
    if not wording.known(keep):
        return float("nan")
    parts = re.findall(r"\d+", str(keep) if isinstance(keep, str) else str(int(keep)))  # type: ignore[call-overload]
    if not parts:
        return float("nan")
    return float(sum(map(int, parts)) * (1 if len(parts) > 1 else int(n_fields)))
