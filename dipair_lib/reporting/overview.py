"""Every measured row as text for people, in tables and hover lines."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from dipair_lib.reporting import derived, wording


def table(data: pd.DataFrame) -> pd.DataFrame:
    """Every measured row as text for people, best quality first, by run_id; a dash where nothing was
    measured, and for a share of a teacher that is not surely above the floor.
    """
    data = data[data["family"] != "published"].sort_values("quality", ascending=False, kind="stable")
    reuse = data.attrs.get("reuse", derived.REUSE)
    lines = []
    for _, row in data.iterrows():
        marks = [
            row["pareto"] and "on the front",
            row["noisy"] and "noisy clock",
            row["teacher"] and "teacher",
            row["seeds"] > 1 and f"{'mean' if row['averaged'] else 'one'} of {row['seeds']:.0f} seeds",
            row["rising"] and "still rising: train longer",
            wording.plain(row["training_notes"]),
        ]
        given = " at the speed given" if row["teacher_fastest_dtype"] == "given" else ""
        faster = {
            price: wording.times(row[price]) + (given if wording.known(row[price]) else "")
            for price in ("speedup", "speedup_vs_fastest", "speedup_reuse")
        }
        lines.append(
            {
                "model": wording.plain(row["model"]),
                "family": wording.plain(row["family"]),
                "metric": wording.plain(row["metric"]),
                "quality": wording.within(row["quality"], row["quality_low"], row["quality_high"]),
                "of the teacher": wording.DASH
                if row["guard"]
                else wording.percent_within(row["retained"], row["retained_low"], row["retained_high"]),
                "gap closed": wording.gap_shown(row),
                "pairs/s, cached": wording.si(row["pairs_per_s"]),
                "speed-up, same dtype": faster["speedup"],
                "speed-up, teacher's fastest": faster["speedup_vs_fastest"],
                f"pairs/s at {reuse:,.0f} pairs per text": wording.si(row["pairs_per_s_reuse"]),
                "speed-up at that reuse": faster["speedup_reuse"],
                "pairs/s at 1 pair per text": wording.si(row["pairs_per_s_once"]),
                "once per text": wording.si(row["text_s"], "s"),
                "per pair": wording.si(row["combine_s_per_pair"], "s"),
                "p95 of a request": wording.si(row["latency_p95_s"], "s"),
                "cache per text": wording.si(row["bytes_per_text"], "B"),
                "parameters": wording.si(row["params_total"]),
                "FLOP per pair": wording.si(row["flops_per_pair"]),
                "of matrix peak": wording.percent(row["peak_fraction"]),
                "dtype": wording.plain(row["dtype"]) if wording.known(row["dtype"]) else wording.DASH,
                "tokens kept": wording.plain(row["keep"]) if wording.known(row["keep"]) else wording.DASH,
                "tokens read": wording.plain(row["read_lengths"])
                if wording.known(row["read_lengths"])
                else wording.DASH,
                "seed": f"{row['seed']:.0f}" if wording.known(row["seed"]) else wording.DASH,
                "pairs seen": wording.si(row["pairs_seen"]),
                "remarks": ", ".join(mark for mark in marks if mark) or wording.DASH,
            }
        )
    shown = pd.DataFrame(lines, index=data.index)
    return of_single_texts(shown) if len(data) and data["n_fields"].max() == 1 else shown


CACHED = "pairs/s, cached"


def of_single_texts(shown: pd.DataFrame) -> pd.DataFrame:
    """The table of tasks of one field: texts in place of pairs, and nothing of reuse or of a cache."""
    shown = shown.drop(columns=[name for name in shown if re.search("reuse|pairs? per text|cache per", name)])
    return shown.rename(columns=ALONE)


# The columns of tasks of one field, by their name where texts stand in pairs.
ALONE = {
    CACHED: "texts/s",
    "once per text": "encoding",
    "per pair": "after it",
    "FLOP per pair": "FLOP after it",
}


def columns_here(wanted: Iterable[str], shown: pd.DataFrame) -> list[str]:
    """Those columns of a ``table``, by the names they have there."""
    return [
        name if name in shown else ALONE[name] for name in wanted if name in shown or ALONE.get(name) in shown
    ]


def published(data: pd.DataFrame) -> pd.DataFrame:
    """Published numbers with their sources; they carry no clock of ours and stand beside none."""
    rows = data[data["family"] == "published"]
    columns = {"model": "model", "task": "task", "metric": "metric", "quality": "quality", "source": "source"}
    shown = [
        {
            name: wording.plain(row[column], 400) if wording.known(row[column]) else wording.DASH
            for column, name in columns.items()
        }
        for _, row in rows.iterrows()
    ]
    return pd.DataFrame(shown, columns=list(columns.values()))


def hover(row: pd.Series) -> str:
    """One row in one line: what a point says when it is pointed at or read aloud."""
    given = " at the speed given" if row["teacher_fastest_dtype"] == "given" else ""
    parts = [
        f"{wording.plain(row['model'])}: {wording.plain(row['metric'])} "
        f"{wording.within(row['quality'], row['quality_low'], row['quality_high'])}",
        f"keeps {wording.percent_within(row['retained'], row['retained_low'], row['retained_high'])} of the teacher"
        if wording.known(row["retained"]) and not row["guard"]
        else "",
        f"of the gap closed: {wording.gap_shown(row)}" if wording.known(row["gap"]) else "",
        f"{wording.si(row['pairs_per_s'])} {'texts/s' if row['n_fields'] == 1 else 'pairs/s cached'}"
        + (f", {wording.times(row['speedup'])} the teacher{given}" if wording.known(row["speedup"]) else "")
        if wording.known(row["pairs_per_s"])
        else "not clocked",
        f"{wording.si(row['text_s'], 's')} once per text, {wording.si(row['combine_s_per_pair'], 's')} per pair"
        if wording.known(row["pairs_per_s"]) and row["n_fields"] > 1
        else "",
        f"95 % of requests within {wording.si(row['latency_p95_s'], 's')}"
        if wording.known(row["latency_p95_s"])
        else "",
        "noisy clock" if row["noisy"] else "",
        "still rising: train longer" if row["rising"] else "",
    ]
    return "; ".join(part for part in parts if part)
