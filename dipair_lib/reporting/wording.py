"""Numbers and names as people read them; what was not measured is a dash."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd

from dipair_lib.system.disk import printable

DASH = "–"  # what stands for "not measured"; never 0


@dataclasses.dataclass(frozen=True)
class Axis:
    """How one column is drawn and compared."""

    label: str
    better: str  # "higher" or "lower"
    log: bool = False
    unit: str = ""

    @property
    def title(self) -> str:
        """Axis label with the unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


AXES: dict[str, Axis] = {
    "quality": Axis("quality", "higher"),
    "retained": Axis("share of the teacher's quality", "higher"),
    "pairs_per_s": Axis("pairs per second, texts cached", "higher", log=True),
    "pairs_per_s_reuse": Axis("pairs per second, encoding included at the stated reuse", "higher", log=True),
    "pairs_per_s_once": Axis("pairs per second, every text encoded for one pair", "higher", log=True),
    "text_s": Axis("once per text", "lower", log=True, unit="s"),
    "combine_s_per_pair": Axis("per pair", "lower", log=True, unit="s"),
    "latency_p95_s": Axis("95th percentile of one request", "lower", log=True, unit="s"),
    "bytes_per_text": Axis("cache per text", "lower", log=True, unit="B"),
    "params_total": Axis("parameters", "lower", log=True),
    "flops_per_pair": Axis("FLOP per pair", "lower", log=True),
}


def plain(text: object, width: int = 200) -> str:
    """Text from data, safe to draw or print on one line: no control or direction characters, at most `width`
    long.
    """
    flat = printable(str(text)).replace("\n", " ")
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def known(value: object) -> bool:
    """Whether a cell holds something: not None, NaN or NA."""
    return value is not None and not bool(pd.isna(value))  # type: ignore[call-overload]


def si(value: float | None, unit: str = "", digits: int = 3) -> str:
    """Three significant digits with an SI prefix: 1234567 -> "1.23 M", 0.00042 with unit "s" -> "420 µs"."""
    if not known(value):
        return DASH
    number = float(value)  # type: ignore[arg-type]
    if number == 0 or not math.isfinite(number):
        return f"{number:g} {unit}".strip()
    power = math.floor(math.log10(abs(float(f"{number:.{digits - 1}e}"))) / 3)
    power = max(-4, min(5, power if unit == "s" or abs(number) >= 1 else 0))
    if unit == "s" and power > 0:
        power = 0
    scaled = number / 1000.0**power
    whole = len(str(int(abs(scaled)))) if abs(scaled) >= 1 else 1
    text = f"{scaled:.{max(0, digits - whole)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text and abs(scaled) >= 1 else text
    prefix = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}[power]
    return f"{text} {prefix}{unit}".strip()


def percent(value: float | None, digits: int = 1) -> str:
    """0.9876 -> "98.8 %"."""
    return f"{round(100 * value, digits) + 0:.{digits}f} %" if known(value) else DASH  # type: ignore[operator]


def money(value: float) -> str:
    """An amount: 1234.5 -> "1,234.50"; below a hundredth with two significant digits."""
    return f"{value:,.2f}" if value == 0 or value >= 0.01 else f"{value:.2g}"


def times(value: float | None) -> str:
    """A speed-up: 6161.2 -> "6,160x", 1.234 -> "1.23x"."""
    if not known(value):
        return DASH
    number = float(f"{value:.2e}")
    return f"{number:,.0f}x" if number >= 100 else f"{number:.3g}x"


def within(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """A number with its interval: "0.852 (0.840 to 0.863)"."""
    if not known(value):
        return DASH
    interval = f" ({low:.{digits}f} to {high:.{digits}f})" if known(low) and known(high) else ""
    return f"{value:.{digits}f}{interval}"


def signed(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """A difference with its interval: "+0.012 (+0.004 to +0.020)"."""
    if not known(value):
        return DASH
    interval = f" ({low:+.{digits}f} to {high:+.{digits}f})" if known(low) and known(high) else ""
    return f"{value:+.{digits}f}{interval}"


def points(value: float | None, low: float | None, high: float | None) -> str:
    """A difference in hundredths of a metric: "+1.2 (-0.1 to +2.5)"; of what is its own reference that it is."""
    return "reference" if value == low == high == 0 else signed(value, low, high, 1)


NOT_SIGNIFICANT = "not significant: the interval includes 0"


def significant(low: float, high: float) -> bool:
    """Whether an interval of a difference excludes 0."""
    return bool(low > 0 or high < 0)


def percent_within(value: float | None, low: float | None, high: float | None, digits: int = 1) -> str:
    """A share with its interval: "98.9 % (97.0 to 100.9)"."""
    if not known(value):
        return DASH
    interval = f" ({100 * low:.{digits}f} to {100 * high:.{digits}f})" if known(low) and known(high) else ""  # type: ignore[operator]
    return percent(value, digits) + interval


BELOW = "below it"


def gap_shown(row: pd.Series) -> str:
    """A row's gap closed with its interval; "below it" where it is surely no better than the best untrained
    row.
    """
    ends = row["gap"], row["gap_low"], row["gap_high"]
    below = row["gap"] < 0 and not row["gap_high"] >= 0
    return BELOW if below else percent_within(*ends, 0)


def label_of(column: str, data: pd.DataFrame) -> str:
    """The name of an axis; where texts stand alone, a rate counts texts and holds their encoding."""
    if column.startswith("pairs_per_s") and len(data) and data["n_fields"].max() == 1:
        return "texts per second, encoding included"
    return AXES[column].label


METRIC_NAMES = {
    "auc": "AUC-ROC",
    "f1": "F1",
    "macro_f1": "macro F1",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
}


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return METRIC_NAMES.get(metric, metric)
