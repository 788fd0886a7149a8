"""What must stand beside a number: budgets, origins, other machines, whom the data favour."""

from __future__ import annotations

import pandas as pd

from dipair_lib.reporting import wording


def budgets(rising: object, first: float | None, second: float | None) -> str:
    """What stands beside "worse": " (still rising: train longer; different budgets: 30,000 against 15,000
    pairs seen)", as far as it is so.

    Args:
        rising: of the worse one.
        first, second: pairs seen by the two, in the order in which they are named.
    """
    said = ["still rising: train longer"] if wording.known(rising) and rising else []
    if wording.known(first) and wording.known(second) and abs(first - second) > 0.1 * min(first, second):  # type: ignore[operator, type-var]
        said.append(f"different budgets: {first:,.0f} against {second:,.0f} pairs seen")
    return f" ({'; '.join(said)})" if said else ""


def origin(data: pd.DataFrame) -> str:
    """Where the teachers are from: trained here, brought along, or a column of scores, and then whether its
    speed is known.
    """
    said = []
    for _, row in data[data["teacher"]].iterrows():
        kind = row["teacher_kind"] if wording.known(row["teacher_kind"]) else "trained"
        backbone = f" ({wording.plain(row['backbone'])})" if wording.known(row["backbone"]) else ""
        if kind != "scores":
            said.append({"brought": "brought along"}.get(str(kind), "trained here") + backbone)
            continue
        own = data[data["teacher_run"].isin(row["runs"]) & speed_given(data)]
        speed = (
            f"its speed is the one given, {wording.si(1 / own['teacher_s_per_pair'].iloc[0])} pairs/s"
            if len(own)
            else "its speed is not known, so nothing is said of a speed-up"
        )
        said.append(f"a column of scores of the data; {speed}")
    return "; ".join(dict.fromkeys(said))


def speed_given(data: pd.DataFrame) -> pd.Series:
    """Flags of the rows whose teacher's speed a person gave."""
    return data["teacher_fastest_dtype"].eq("given") & data["teacher_s_per_pair"].gt(0)


def known_biases(data: pd.DataFrame) -> str:
    """What must stand beside every comparison: whom the embedded backbone favours, and whom the negatives of
    a task work against; nothing where there is neither.
    """
    said = []
    names = {str(name).rstrip("/").rsplit("/", 1)[-1] for name in data["backbone"].dropna()}
    if names & {"embedded", "all-MiniLM-L6-v2"}:
        said.append(
            "The mean cosine of this backbone (all-MiniLM-L6-v2) was trained on about 10^9 pairs, which favours DE-Cos and every head that "
            "corrects the cosine; a backbone not trained on pairs may rank them otherwise."
        )
    if any('"negatives":"one of the 20 nearest by TF-IDF' in text for text in data["data_notes"].dropna()):
        said.append(
            "The negatives of this task are among the nearest by TF-IDF and by this backbone's own cosine: both of these "
            "baselines stand lower here than on negatives chosen in another way, so every student's gap closed is to be read with that."
        )
    return " ".join(said)


def clocked_elsewhere(table: pd.DataFrame) -> dict[str, str]:
    """Run id of each row whose clock is of another machine, device or number of threads than the teacher's
    (than most, without one), and that in words: such speeds are never compared.
    """
    clocked = table[table["pairs_per_s"].notna() & (table["family"] != "published")]
    named = clocked[["device", "device_name", "threads"]].itertuples(index=False)
    machines = pd.Series([str(tuple(one)) for one in named], clocked.index, dtype=object)
    if machines.nunique() < 2:
        return {}
    teachers = machines[clocked["teacher"]]
    own = teachers.iloc[-1] if len(teachers) else machines.mode().iloc[0]
    others = clocked[machines != own]
    said = "clocked elsewhere ({}, {} threads), not beside the others"
    return {
        str(run): said.format(wording.plain(name), f"{threads:.0f}" if wording.known(threads) else "unknown")
        for run, name, threads in zip(others.index, others["device_name"], others["threads"], strict=True)
    }


def said_of_sessions(table: pd.DataFrame) -> str:
    """That clocks of several sessions stand beside each other, between which a machine may have changed its
    pace.
    """
    sessions = table.loc[table["pairs_per_s"].notna(), "clock_id"].nunique()
    if sessions < 2:
        return ""
    advice = "small differences of speed may be the machine's (04_tradeoff with clock=all takes all in turns)"
    return f" The clocks are of {sessions} sessions: {advice}."


def said_of_training(row: pd.Series) -> str:
    """What a reader must know of how a student was trained; nothing where all went well."""
    text = " Its dev metric was still rising when its budget ended: train longer." if row["rising"] else ""
    return text + (
        f" Of its training: {wording.plain(row['training_notes'])}." if row["training_notes"] else ""
    )
