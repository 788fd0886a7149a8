"""One HTML file from the rows of a results folder: the answer first, then pictures, tables, method, data, environment.

No script and no address from outside: figures are inline SVG whose points carry ``<title>`` children, so that hovering and screen readers
work without JavaScript. Everything that came from data or files is escaped by the template. Computes no result of its own.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from dipair_lib import (
    ablation,
    agreement,
    architecture_table,
    comparison,
    published,
    results,
    study,
    tradeoff,
)

LIMITS = (
    tradeoff.Limits(min_retained=0.99),
    tradeoff.Limits(min_retained=0.95),
    tradeoff.Limits(min_retained=0.90),
)
FIGURES = {
    "quality_speed": (
        "Quality against speed",
        "Right is faster, up is better. Bars are 95 % intervals of quality and quartiles of the clock; the line joins the models that no "
        "other beats on both. The teacher's band is its own interval: within it a student is as good as the teacher.",
    ),
    "kept": (
        "What the number of kept tokens brings",
        "One line per head. The contrast is the teacher itself, retrained to read only its first word pieces, [CLS] and [SEP] counted; of "
        "kept outputs the first is [CLS]'s, and [SEP]'s is among them only where a text is short. DiPair's claim is that "
        "truncating what the encoder hands on loses less than truncating what is read, at a far lower price per pair: see whether it "
        "holds here.",
    ),
    "price": (
        "What a text costs once, what a pair costs each time",
        "A student pays once per text and caches the result; a cross-encoder pays everything per pair. Logarithmic bars. Of many models: "
        "those that nothing beats on quality and speed, and the best of each head; the table has all.",
    ),
}
COLUMNS = {  # the text table under each figure; names as in tradeoff.table
    "quality_speed": [
        "model",
        "quality",
        "of the teacher",
        "gap closed",
        tradeoff.CACHED,
        "speed-up, same dtype",
        "remarks",
    ],
    "kept": ["model", "tokens kept", "tokens read", "quality", tradeoff.CACHED],
    "price": ["model", "once per text", "per pair", "cache per text", "parameters", "FLOP per pair"],
}
# Colours of figures that follow the page's where it names some; what matplotlib leaves out is black, see ``.paper svg`` in the template.
PAGE = {
    tradeoff.INK: "ink",
    tradeoff.MUTED: "muted",
    tradeoff.GRID: "line",
    tradeoff.CARD: "card",
    "#000000": "ink",
}
SVG = "{http://www.w3.org/2000/svg}"
SIZE_LIMIT = 2_000_000


def write(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a results folder.

    Args:
        folder: with ``rows/`` or a ``rows.jsonl``.
        out: the file; ``folder/report.html`` if not given. Written to a temporary name, then renamed.

    Raises:
        ResultError: the folder holds no readable row.
    """
    side = comparison.opened(folder)
    return store(html([part(side)]), Path(out) if out else side.folder / "report.html")


def compare(folders: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write one report of several results folders: what is chosen in each, same models held against the first folder's, then each folder's
    sections (left out where the page would be too large).

    Args:
        out: the file; ``comparison.html`` in the folder that holds them all if not given.

    Raises:
        ResultError: a folder holds no readable row, or is named twice.
    """
    paths = [Path(folder) for folder in folders]
    sides = [
        comparison.opened(path, name) for path, name in zip(paths, comparison.names_of(paths), strict=True)
    ]
    against = compared(sides)
    parts = [part(side) for side in sides]
    page = html(parts, against)
    if len(page.encode("utf8")) > SIZE_LIMIT:
        page = html([{**one, "tasks": [], "architectures": None, "left_out": True} for one in parts], against)
    common = Path(os.path.commonpath([path.resolve() for path in paths]))
    return store(page, Path(out) if out else common / "comparison.html")


def store(page: str, path: Path) -> Path:
    """Write a page; ResultError if it is too large to be sent around."""
    if len(page.encode("utf8")) > SIZE_LIMIT:
        raise results.ResultError(
            f"{path}: {len(page):,} characters are over the 2 MB a report may have: report fewer rows at once"
        )
    return results.write_atomic(path, page.encode("utf8"))


def html(parts: Sequence[Mapping[str, Any]], against: Mapping[str, Any] | None = None) -> str:
    """The whole page: of one folder or several (from ``part``), with what was ``compared`` before them."""
    environment = Environment(
        loader=PackageLoader("dipair_lib", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        parts=parts,
        against=against,
        title=" and ".join(part["title"] for part in parts),
        n_boot=sorted({n for part in parts for n in part["n_boot"]}),
        favours=next((part["favours"] for part in parts if part["favours"]), ""),
        reuse=f"{tradeoff.REUSE:,.0f}",
    )


def part(side: comparison.Opened) -> dict[str, Any]:
    """What the page says of one folder."""
    damaged, stored = list(side.damaged), None
    if (side.folder / architecture_table.FILE).exists():
        try:
            stored = architecture_table.load(side.folder)
        except results.ResultError as error:
            damaged.append(str(error))
    measured = side.data[side.data["family"] != "published"]
    studied, mattered = studies(side.folder), factors(side.folder)
    return {
        "title": tradeoff.plain(side.name),
        "left_out": False,
        "tasks": [
            {
                **section(side.data[side.data["task"] == task], side),
                "study": studied.get(task),
                "factors": mattered.get(task),
            }
            for task in measured["task"].dropna().unique()
        ],
        "architectures": architectures(stored) if stored else None,
        "published": cells(tradeoff.published(side.data)),
        "damaged": damaged,
        "machine": machine(measured),
        "favours": tradeoff.known_biases(measured),
        "command": command(measured.iloc[-1]) if len(measured) else "",
        "commits": commits(measured),
        "n_boot": sorted({int(n) for n in measured["n_boot"].dropna()}),
    }


def commits(data: pd.DataFrame) -> list[str]:
    """The commits that made the rows, and of how many rows the code had changes that were not committed."""
    known = data[data["git_commit"].notna()]
    dirty = known["git_dirty"].eq(True).groupby(known["git_commit"].str[:12]).sum()
    return [
        f"{commit} ({n} row{'s' if n != 1 else ''} with changes that were not committed)"
        if n
        else str(commit)
        for commit, n in dirty.items()
    ]


def compared(sides: Sequence[comparison.Opened]) -> dict[str, Any]:
    """What the page says of several folders together: each task's choices in each folder, and the later ones held against the first."""
    numbers = comparison.machines(sides)
    return {
        "machines": [(f"machine {number}", name) for name, number in numbers.items()],
        "tasks": [task_compared(sides, task, numbers) for task in comparison.tasks_of(sides)],
    }


def task_compared(
    sides: Sequence[comparison.Opened], task: str, numbers: Mapping[str, int]
) -> dict[str, Any]:
    """Choices and pairs of one task."""
    having = [side for side in sides if len(side.of(task))]
    data = {side.name: side.data[side.data["task"] == task] for side in having}
    choices = {name: [tradeoff.select(rows, limits) for limits in LIMITS] for name, rows in data.items()}
    failed = {name: tradeoff.failed(rows) for name, rows in data.items()}
    pairs, other = [], []
    first = having[0]
    for side in having[1:]:
        if comparison.same_data(first.of(task), side.of(task)):
            pairs.append(pair(first, side, task, numbers))
        else:
            hashes = [
                ", ".join(sorted({str(h)[:12] for h in s.of(task)["data_sha256"].dropna()}))
                for s in (first, side)
            ]
            other.append(
                f"{first.name} and {side.name} hold different data under this name (fingerprints {hashes[0] or 'unknown'} and "
                f"{hashes[1] or 'unknown'}): qualities on different test rows are not compared."
            )
    return {
        "name": tradeoff.plain(task),
        "alone": first.name if len(having) == 1 else "",
        "guards": [(name, " ".join(said)) for name, said in failed.items() if said],
        "choices": [
            {
                "limit": str(limits),
                "found": [
                    (name, machine_said(data[name], of[i], numbers), of[i].sentence)
                    for name, of in choices.items()
                    if not stopped(of[i], failed[name])
                ],
            }
            for i, limits in enumerate(LIMITS)
            if not all(stopped(of[i], failed[name]) for name, of in choices.items())
        ],
        "pairs": pairs,
        "other": other,
    }


def stopped(choice: tradeoff.Choice, failed: Sequence[str]) -> bool:
    """Whether nothing can be chosen because no teacher of the students is surely above the floor: the card before the choices says so."""
    return bool(failed) and choice.winner is None and choice.nearest is None


def machine_said(data: pd.DataFrame, choice: tradeoff.Choice, numbers: Mapping[str, int]) -> str:
    """The machine that a choice was clocked on."""
    run = choice.winner or choice.nearest
    name = comparison.machine_of(data.loc[run]) if run else ""
    return f"machine {numbers[name]}" if name else "not clocked"


def pair(
    before: comparison.Opened, after: comparison.Opened, task: str, numbers: Mapping[str, int]
) -> dict[str, Any]:
    """One folder held against the first one."""
    found = comparison.lines(before, after, task)
    drawn = comparison.figure(before, after, found) if len(found) else None
    label = f"paired differences of quality, {after.name} less {before.name}; the table below holds the same numbers"
    return {
        "title": f"{after.name} against {before.name}",
        "said": comparison.sentence(before, after, task, found),
        "most": comparison.MOST_DRAWN,
        "svg": inline(drawn, label, f"{before.name} {after.name} {task}", comparison.hovers(found))
        if drawn
        else None,
        "table": cells(comparison.table(before, after, found, numbers)) if len(found) else None,
    }


def section(data: pd.DataFrame, side: comparison.Opened) -> dict[str, Any]:
    """What the page says of one task of a folder."""
    whole = tradeoff.table(data)
    choices = [tradeoff.select(data, limits) for limits in LIMITS]
    winners = [choice.winner for choice in choices if choice.winner]
    failed = tradeoff.failed(data)
    first = data[data["family"] != "published"].iloc[0]
    return {
        "name": tradeoff.plain(first["task"]),
        "n_models": len(whole),
        "n_examples": number(first["n_examples"]),
        "n_groups": number(first["n_groups"]),
        "n_train": number(first["n_train"]),
        "guards": failed,
        "choices": answers([choice for choice in choices if not stopped(choice, failed)]),
        "given": bool(data["given"].any()),
        "favours": tradeoff.known_biases(data),
        "one_seed": one_seed(data),
        "noisy": int(data["noisy"].sum()),
        "figures": [
            {
                "title": FIGURES[name][0],
                "reading": FIGURES[name][1],
                "svg": svg(
                    tradeoff.draw(name, data, winners if name == "quality_speed" else ()),
                    data,
                    name,
                    f"{side.name} {first['task']}",
                ),
                "table": cells(whole[tradeoff.columns_here(COLUMNS[name], whole)]),
            }
            for name in FIGURES
            if name != "kept" or data["keep"].notna().any()
        ],
        "tables": [
            (caption, cells(part)) for caption, part in {**split(whole), **others(data, side)}.items()
        ],
        "sanity": sanity(data),
        "notes": notes(first["data_notes"]),
        "sha256": str(first["data_sha256"] or "")[:16],
    }


def others(data: pd.DataFrame, side: comparison.Opened) -> dict[str, pd.DataFrame]:
    """The table of what stands beside the headline metric, where there is any of it."""
    found = agreement.table(data, side.rows, side.folder)
    return {"All models: other metrics, agreement with the teacher": found} if found.shape[1] > 1 else {}


def one_seed(data: pd.DataFrame) -> str:
    """What one seed's interval does not say, of the students here that have one: all of them, or those named."""
    trained = data[(data["family"] != "published") & data["train_seconds"].gt(0) & ~data["teacher"]]
    alone = trained[trained["seeds"].fillna(1) <= 1]
    if alone.empty:
        return ""
    names = ", ".join(tradeoff.plain(name, 60) for name in alone["model"].iloc[:6])
    more = f" and {len(alone) - 6} more" if len(alone) > 6 else ""
    who = (
        "Each student was" if len(alone) == len(trained) else f"With one seed stand {names}{more}: they were"
    )
    return (
        f"{who} trained once: the intervals say how sure the test split makes us, not how much another seed would change. "
        "Train three before a claim"
    )


def split(whole: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of all models as three that fit a page: quality, speed, and what a model is and holds."""
    quality = [
        "model",
        "family",
        "metric",
        "quality",
        "of the teacher",
        "gap closed",
        "seed",
        "pairs seen",
        "remarks",
    ]
    sizes = ["model", "tokens kept", "tokens read", "cache per text", "parameters", "FLOP per pair"]
    sizes = tradeoff.columns_here(sizes, whole)
    speed = ["model", *(column for column in whole if column not in {*quality, *sizes})]
    return {
        "All models: quality, best first": whole[quality],
        "All models: speed": whole[speed],
        "All models: sizes": whole[sizes],
    }


def studies(folder: Path) -> dict[str, dict[str, Any]]:
    """The comparison of BiLSTM students of each task that has one: what was seen, its figure and its table.

    It is computed from raw logits, which a folder of rows alone (``rows.jsonl``) does not hold.
    """
    found = {}
    for task in ablation.tasks_of(folder):
        drawn = ablation.figure(folder, task)
        label = f"{tradeoff.plain(task)}: distillation or augmentation; the table below holds the gains"
        found[task] = {
            "said": ablation.sentence(folder, task),
            "svg": inline(drawn, label, f"study {task}"),
            "table": cells(ablation.gains(folder, task)),
        }
    return found


def factors(folder: Path) -> dict[str, dict[str, Any]]:
    """The one-factor studies of DiPair of each task that has some: how far the best is from the bar, the figure, and two tables."""
    found = {}
    for task in study.tasks_of(folder):
        label = f"{tradeoff.plain(task)}: what matters in DiPair; the table below holds the same numbers"
        lines = study.table(folder, task)
        bar = study.bar_shown(study.bar(folder, task))
        found[task] = {
            "said": study.sentence(folder, task),
            "claims": study.claims(lines),
            "given": bool(lines["given"].any()),
            "n": int((lines["points"].notna() & (lines["value"] != lines["against"])).sum()),
            "svg": inline(study.figure(folder, task), label, f"factors {task}"),
            "table": cells(study.shown(lines)),
            "bar": cells(bar) if len(bar) else None,
        }
    return found


def architectures(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of the speed of the paper's systems."""
    label = (
        "time per sentence of each system, ours beside the published; the table below holds the same numbers"
    )
    machine = content["machine"]
    return {
        "said": architecture_table.sentence(content),
        "svg": inline(architecture_table.figure(content), label, "architectures"),
        "table": cells(architecture_table.table(content)),
        "ways": cells(architecture_table.ways_table(content)),
        "source": published.SURE_2,
        "machine": tradeoff.plain(
            f"{machine['device_name']}, {machine['threads']} threads, torch {machine['torch']}, "
            + ", ".join(
                f"{device} {dtype} {peak:,.0f} GFLOP/s"
                for device, peaks in machine["peak_gflops"].items()
                for dtype, peak in peaks.items()
            )
        ),
    }


def answers(choices: list[tradeoff.Choice]) -> list[dict[str, str]]:
    """A heading and a sentence per limit; limits that the same model answers share one."""
    found: list[dict[str, str]] = []
    for limits, choice in zip(LIMITS, choices, strict=False):  # of none or of all
        if choice.winner and found and found[-1]["winner"] == choice.winner:
            found[-1]["limit"] += f" (or {100 * (limits.min_retained or 0):g} %)"
        else:
            found.append({"limit": str(limits), "sentence": choice.sentence, "winner": choice.winner or ""})
    return found


def svg(figure: Figure, data: pd.DataFrame, name: str, salt: str = "") -> str:
    """A figure as inline SVG whose points have hover texts."""
    hovers = {run: tradeoff.hover(row) for run, row in data.iterrows()}
    label = FIGURES[name][0] + "; the table below holds the same numbers"
    return inline(figure, label, f"{name} {salt}", hovers)


def inline(figure: Figure, label: str, salt: str, hovers: Mapping[Any, str] | None = None) -> str:
    """A figure as inline SVG: no metadata, no namespace addresses, ids of its own, its quiet colours those of the page (light or dark).

    Args:
        label: what a screen reader says. salt: of the ids, one per figure of a page.
        hovers: texts by run id, for the groups called ``row:...:<run id>``.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": salt}):
        figure.savefig(
            buffer,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
            transparent=True,
        )
    root = ElementTree.fromstring(buffer.getvalue())
    for metadata in root.findall(f"{SVG}metadata"):
        root.remove(metadata)
    for group in root.iter(f"{SVG}g"):
        run = group.get("id", "").split(":", 2)
        if run[0] == "row" and run[-1] in (hovers or {}):
            title = ElementTree.Element(f"{SVG}title")
            title.text = (hovers or {})[run[-1]]
            group.insert(0, title)
    for element in root.iter():
        if style := element.get("style"):
            element.set(
                "style", re.sub("|".join(PAGE), lambda found: f"var(--{PAGE[found[0]]}, {found[0]})", style)
            )
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.set("role", "img")
    root.set("aria-label", label)
    ElementTree.register_namespace("", SVG[1:-1])
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    text = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)


def cells(table: pd.DataFrame) -> dict[str, Any]:
    """A table as plain lists for the template."""
    return {"head": [str(c) for c in table.columns], "rows": table.astype(str).to_numpy().tolist()}


def sanity(data: pd.DataFrame) -> dict[str, Any]:
    """The order constant < lexical < frozen cosine < teacher: its steps, and whether it holds."""
    steps = tradeoff.sanity(data)
    found = steps["holds"].dropna().tolist()
    said = (
        "holds"
        if found and all(found)
        else "does not hold"
        if False in found
        else "cannot be checked: rows are missing"
    )
    known = [f"{s.step} {s.quality:.3f}" for s in steps.itertuples() if pd.notna(s.quality)]
    return {"said": said, "steps": " < ".join(known) if said == "holds" else ", ".join(known)}


def notes(text: str | None) -> list[tuple[str, str]]:
    """The task's notes as pairs of name and one line of text; a long mapping (packages) is counted and its largest named."""
    try:
        values: Mapping[str, Any] = json.loads(text or "{}")
    except ValueError:
        return []
    return [(tradeoff.plain(name), tradeoff.plain(one_line(value), 600)) for name, value in values.items()]


def one_line(value: Any) -> str:
    """A note's value for people."""
    if not isinstance(value, Mapping):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if len(value) <= 12:
        return "; ".join(f"{k}: {one_line(v)}" for k, v in value.items())
    largest = sorted(
        value.items(), key=lambda item: -max((n for n in as_list(item[1]) if isinstance(n, int)), default=0)
    )[:12]
    return f"{len(value)} in all, the largest: " + "; ".join(
        f"{k} {' '.join(map(str, as_list(v)))}" for k, v in largest
    )


def as_list(value: Any) -> list[Any]:
    """The parts of a note: of a list, of a mapping, or the value alone."""
    return (
        list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    )


def machine(data: pd.DataFrame) -> list[tuple[str, str]]:
    """Where the teacher is from and where all ran: each property with every value found in the rows."""
    names = {
        "device_name": "processor", "hardware": "instructions", "quality_dtype": "encoder arithmetic behind quality",
        "threads": "threads on the clock", "device": "device on the clock",
        "peak_gflops": "matrix product, float32, GFLOP/s", "copy_gb_per_s": "memory copy, GB/s", "repeats": "turns on the clock",
        "request_candidates": "candidates in one request", "python": "Python", "torch": "torch", "transformers": "transformers",
        "platform": "platform",
    }  # fmt: skip
    origin = tradeoff.origin(data)
    found = [("teacher", origin)] if origin else []
    for column, name in names.items():
        values = data[column].dropna().unique().tolist()
        if values:
            found.append(
                (name, ", ".join(f"{v:,.4g}" if isinstance(v, float) else tradeoff.plain(v) for v in values))
            )
    return found


def command(row: pd.Series) -> str:
    """The line that makes these rows again."""
    try:
        parameters = json.loads(row["parameters"] or "{}")
    except ValueError:
        parameters = {}
    words = ["dipair", "run", f"notebooks/suites/{row['suite']}.yaml"]
    for name in ("task", "fields", "label", "group", "kind"):
        value = parameters.get(name)
        if value and value != "pydocs":
            words += ["-p", f"{name}={json.dumps(value) if isinstance(value, list) else value}"]
    return tradeoff.plain(shlex.join(words), 1000)


def number(value: Any) -> str:
    """A count with thousands separators, or a dash."""
    return f"{value:,.0f}" if tradeoff.known(value) else tradeoff.DASH


# --- executed notebooks -----------------------------------------------------------------------------------------------------------

SHOWN = ("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain")
TAGS = frozenset(
    "a abbr b blockquote br caption code col colgroup dd del div dl dt em h1 h2 h3 h4 h5 h6 hr i img kbd li ol p pre s small span strong "
    "sub sup table tbody td tfoot th thead tr ul var".split()
)


def notebooks(folder: Path | str) -> list[Path]:
    """Render the executed notebooks of a results folder to HTML beside them: prose and outputs, no inputs, nothing from outside.

    Raises:
        ResultError: there are none, or one is not a notebook.
    """
    folder = Path(folder) / "notebooks"
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise results.ResultError(f"{folder}: no executed notebook: run a suite first (dipair run)")
    for page in folder.glob("*.html"):
        if page.with_suffix(".ipynb") not in paths:
            page.unlink()  # of a run that failed then and has succeeded since
    return [results.write_atomic(path.with_suffix(".html"), rendered(path).encode("utf8")) for path in paths]


def rendered(path: Path) -> str:
    """One executed notebook as a page; what its outputs hold of markup is cleaned, pictures stay."""
    import nbformat
    from nbconvert import HTMLExporter

    try:
        notebook: Any = nbformat.read(path, as_version=4)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, nbformat.ValidationError) as error:
        raise results.ResultError(f"{path}: is not a notebook ({error})") from error
    notebook.metadata.pop("widgets", None)
    errors = [shown_outputs(cell) for cell in notebook.cells if cell.cell_type == "code"]
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        sanitize_html=True,
    )
    exporter.register_filter("clean_html", cleaned)
    body, _ = exporter.from_notebook_node(notebook)
    body = re.sub(r"<img (?![^>]*\balt=)", '<img alt="figure" ', body)
    environment = Environment(
        loader=PackageLoader("dipair_lib", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("notebook.html.j2").render(
        name=tradeoff.plain(path.stem),
        failed=path.stem.endswith(".failed") or any(errors),
        error=tradeoff.plain(next((error for error in errors if error), ""), 600),
        body="\n".join(tradeoff.plain(line, len(line)) for line in body.split("\n")),
    )


def shown_outputs(cell: Any) -> str:
    """Keep of a cell's outputs what can be shown (no progress bars, no widgets, no script). Returns its error, or nothing."""
    kept, error = [], ""
    for output in cell.outputs:
        if output.output_type == "error":
            error = f"{output.ename}: {output.evalue}"
        if "data" in output:
            output.data = {kind: value for kind, value in output.data.items() if kind in SHOWN}
            output.metadata = {}
        if output.get("name") != "stderr" and output.get("data", True):
            kept.append(output)
    cell.outputs = kept
    return error


def cleaned(markup: Any) -> str:
    """Markup from an output or a text cell: tables, lists and embedded pictures; no script, style, address or event."""
    import bleach

    def embedded(found: re.Match[str]) -> str:
        return f'<img alt="figure" src="data:image/svg+xml;base64,{base64.b64encode(found[0].encode()).decode()}">'

    def kept(tag: str, name: str, value: str) -> bool:
        if tag == "img" and name == "src":
            return bool(re.match(r"data:image/(png|jpeg|gif|svg\+xml);base64,", value))
        return name in {"alt", "colspan", "rowspan", "scope"}

    text = re.sub(r"(?is)<(style|script)\b.*?</\1\s*>", "", str(markup))
    text = re.sub(r"(?is)<svg\b.*?</svg\s*>", embedded, text)
    return bleach.clean(text, tags=TAGS, attributes=kept, protocols={"data"}, strip=True)
