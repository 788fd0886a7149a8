"""A figure of its own for each view of the trade-off."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure

from dipair_lib.reporting.figures import kept_tokens, price, quality_speed, style


def draw(name: str, data: pd.DataFrame, highlight: Iterable[str] = (), speed: str = "pairs_per_s") -> Figure:
    """A figure of its own for one of "quality_speed" (against which `speed`), "kept", "price", drawn from the
    rows of one task.
    """
    if name == "quality_speed":
        figure = Figure(figsize=(9.2, 6.0), dpi=110, layout="constrained")
        quality_speed.plot_quality_speed(data, figure.subplots(), speed, highlight)
    elif name == "kept":
        figure = Figure(figsize=(9.2, 4.2), dpi=110, layout="constrained")
        kept_tokens.plot_kept(data, *figure.subplots(1, 2))
    elif name == "price":
        n = len(style.few(data[data["family"] != "published"]))
        figure = Figure(figsize=(9.2, 1.0 + 0.27 * max(n, 3)), dpi=110, layout="constrained")
        price.plot_price(data, figure.subplots(1, 4))
    else:
        raise ValueError(f"unknown figure {name!r}: expected one of quality_speed, kept, price")
    return figure
