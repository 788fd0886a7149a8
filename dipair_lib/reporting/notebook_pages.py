"""Executed notebooks as pages, what their outputs hold of markup cleaned."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dipair_lib.reporting import wording
from dipair_lib.system import disk

# --- executed notebooks -----------------------------------------------------------------------------------------------------------

SHOWN = ("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain")
TAGS = frozenset(
    "a abbr b blockquote br caption code col colgroup dd del div dl dt em h1 h2 h3 h4 h5 h6 hr i img kbd li ol p pre s small span strong "
    "sub sup table tbody td tfoot th thead tr ul var".split()
)


def notebooks(folder: Path | str) -> list[Path]:
    """Render the executed notebooks of a results folder to HTML beside them: prose and outputs, no inputs,
    self-contained.

    Raises:
        ResultError: there are none, or one is not a notebook.
    """
    folder = Path(folder) / "notebooks"
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise disk.ResultError(f"{folder}: no executed notebook: run a suite first (dipair run)")
    for page in folder.glob("*.html"):
        if page.with_suffix(".ipynb") not in paths:
            page.unlink()  # of a run that failed then and has succeeded since
    return [disk.write_atomic(path.with_suffix(".html"), rendered(path).encode("utf8")) for path in paths]


def rendered(path: Path) -> str:
    """One executed notebook as a page; what its outputs hold of markup is cleaned, pictures stay."""
    import nbformat
    from nbconvert import HTMLExporter

    try:
        notebook: Any = nbformat.read(path, as_version=4)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, nbformat.ValidationError) as error:
        raise disk.ResultError(f"{path}: is not a notebook ({error})") from error
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
        loader=PackageLoader("dipair_lib.reporting"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("notebook.html.j2").render(
        name=wording.plain(path.stem),
        failed=path.stem.endswith(".failed") or any(errors),
        error=wording.plain(next((error for error in errors if error), ""), 600),
        body="\n".join(wording.plain(line, len(line)) for line in body.split("\n")),
    )


def shown_outputs(cell: Any) -> str:
    """Keep of a cell's outputs what can be shown (no progress bars, no widgets, no script). Returns its
    error, or nothing.
    """
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
    """Markup from an output or a text cell: tables, lists and embedded pictures; no script, style, address or
    event.
    """
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
