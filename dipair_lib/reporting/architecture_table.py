"""What ``architectures`` measured, for people: the table, the figure, the sentence, all beside the paper's
Table 2. Measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dipair_lib.evaluation.clocks import NOISY
from dipair_lib.reporting import published, wording
from dipair_lib.reporting.figures import style

BASE = "BiLSTM 150"  # what every ratio is to, as in the paper
EXACT = 1e-3  # largest difference of logits that counts as the same


def with_ratios(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The systems with ``ratio`` and ``rest_ratio``: their time over that of BiLSTM 150 in float32 on the
    same device; None without it.
    """
    rows = list(rows)
    base = {r["device"]: r for r in rows if r["system"] == BASE and r["dtype"] == "float32"}
    return [
        {
            **row,
            **{
                name: row[part] / base[row["device"]][part] if row["device"] in base else None
                for name, part in (
                    ("ratio", "seconds"),
                    ("rest_ratio", "rest_seconds"),
                    ("flops_ratio", "flops"),
                )
            },
        }
        for row in rows
    ]


def table(content: Mapping[str, Any]) -> pd.DataFrame:
    """The systems as text for people, the paper's ratio beside ours."""
    si, times = wording.si, wording.times
    lines = []
    for row in with_ratios(content["systems"]):
        paper = published.TABLE_2.get(row["system"])
        noisy = (row["seconds_q3"] - row["seconds_q1"]) / row["seconds"] > NOISY
        lines.append(
            {
                "system": row["system"],
                "device": row["device"],
                "dtype": row["dtype"],
                "per sentence": f"{si(row['seconds'], 's')} ({si(row['seconds_q1'], 's')} to {si(row['seconds_q3'], 's')})"
                + (", noisy" if noisy else ""),
                "sentences/s": si(1 / row["seconds"]),
                f"time, {BASE} = 1": times(row["ratio"]),
                "published": times(paper.ratio) if paper else wording.DASH,
                "without look-up": si(row["rest_seconds"], "s"),
                "its ratio": times(row["rest_ratio"]),
                "parameters": si(row["params_total"]),
                "without look-up's": si(row["params_total"] - row["params_look_up"]),
                "published parameters": si(1e6 * paper.parameters) if paper else wording.DASH,
                "FLOP per sentence": si(row["flops"]),
                "of matrix peak": wording.percent(row["peak_fraction"]),
                "sentences clocked": f"{row['sentences']:,}",
                "padding": wording.percent(row["padding"]),
            }
        )
    return pd.DataFrame(lines)


def ways_table(content: Mapping[str, Any]) -> pd.DataFrame:
    """The ways of computing the BiLSTM as text; the fastest whose logits are the textbook's to 1e-3 is
    marked.
    """
    exact = [w for w in content["ways"] if w["seconds"] and w["difference"] <= EXACT]
    best = min(exact, key=lambda w: w["seconds"])["way"] if exact else None
    return pd.DataFrame(
        {
            "way": w["way"],
            "per sentence": wording.si(w["seconds"], "s"),
            "speed-up": wording.times(w["speedup"]),
            "largest difference of logits": f"{w['difference']:.1e}" if w["seconds"] else wording.DASH,
            "remarks": w["problem"]
            or (f"the fastest that is exact to {EXACT:g}" if w["way"] == best else wording.DASH),
        }
        for w in content["ways"]
    )


def sentence(content: Mapping[str, Any]) -> str:
    """What the numbers say beside the paper's, and where the difference comes from, by device."""
    rows = with_ratios(content["systems"])
    said = []
    for device in dict.fromkeys(row["device"] for row in rows):
        own = {
            r["system"]: r for r in rows if r["device"] == device and r["dtype"] == "float32" and r["ratio"]
        }
        for name, paper in published.TABLE_2.items():
            if name != BASE and name in own:
                row = own[name]
                said.append(
                    f"On the {device} in float32 {name} takes {wording.times(row['ratio'])} the time of {BASE}, in the paper "
                    f"{wording.times(paper.ratio)}: it has {wording.times(row['flops_ratio'])} the arithmetic and reaches "
                    f"{wording.percent(row['peak_fraction'])} of the matrix peak, {BASE} {wording.percent(own[BASE]['peak_fraction'])}."
                )
        for row in rows:
            if (
                row["device"] == device
                and row["dtype"] != "float32"
                and row["ratio"]
                and row["system"] in published.TABLE_2
            ):
                said.append(f"{row['system']} in {row['dtype']}: {wording.times(row['ratio'])}.")
    textbook = content["ways"][0]["seconds"] if content["ways"] else None
    large = next(
        (r for r in rows if (r["system"], r["device"], r["dtype"]) == ("BERT-large", "cpu", "float32")), None
    )
    if textbook and large:
        said.append(
            f"Against the BiLSTM as the paper computed it (nn.LSTM, packed; {wording.si(textbook, 's')} per sentence) BERT-large takes "
            f"{wording.times(large['seconds'] / textbook)} on this CPU."
        )
    if parts := content["parts"]:
        shares = ", ".join(
            f"{name} {wording.percent(s / sum(parts.values()), 0)}" for name, s in parts.items()
        )
        said.append(f"Of the time of {BASE} on the CPU: {shares}.")
    return " ".join(said)


def figure(content: Mapping[str, Any]) -> Figure:
    """Bars on a log axis: each system's time over that of BiLSTM 150, ours by device and dtype, and the
    paper's.
    """
    rows = [row for row in with_ratios(content["systems"]) if row["ratio"]]
    bars: list[tuple[str, float, str]] = []
    for name in dict.fromkeys(row["system"] for row in rows):
        if name in published.TABLE_2:
            bars.append(
                (
                    f"{name}, published (V100)",
                    published.TABLE_2[name].ratio,
                    style.FAMILIES["constant"].colour,
                )
            )
        for row in [row for row in rows if row["system"] == name]:
            family = "bilstm" if "BiLSTM" in name else "static" if name == "ELMo" else "cross-encoder"
            bars.append(
                (f"{name}, {row['device']} {row['dtype']}", row["ratio"], style.FAMILIES[family].colour)
            )
    drawn = Figure(figsize=(9.2, 1.0 + 0.3 * max(len(bars), 3)), dpi=110, layout="constrained")
    ax = drawn.subplots()
    style.style_axes(ax)
    if not bars:
        style.say_in(ax, f"{BASE} was not clocked, so there is nothing to compare with")
        return drawn
    names, values, colours = zip(*bars, strict=True)
    least = min(values) / 2
    ax.barh(
        range(len(bars)),
        np.subtract(values, least),
        left=least,
        color=colours,
        height=0.66,
        edgecolor=style.INK,
        linewidth=0.5,
    )
    for place, value in enumerate(values):
        ax.annotate(
            wording.times(value),
            (value, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.set(xscale="log", xlim=(least, 2.5 * max(values)), yticks=range(len(bars)), yticklabels=names)
    ax.set_xlabel(f"time per sentence, {BASE} in float32 = 1")
    ax.invert_yaxis()
    style.log_ticks(ax.xaxis)
    return drawn
