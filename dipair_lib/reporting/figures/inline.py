"""A figure as inline SVG for a page in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

from dipair_lib.reporting.figures import style

# Colours of figures that follow the page's where it names some; what matplotlib leaves out is black, see
# ``.paper svg`` in the template.
PAGE = {
    style.INK: "ink",
    style.MUTED: "muted",
    style.GRID: "line",
    style.CARD: "card",
    "#000000": "ink",
}
SVG = "{http://www.w3.org/2000/svg}"


def inline(figure: Figure, label: str, salt: str, hovers: Mapping[Any, str] | None = None) -> str:
    """A figure as inline SVG: no metadata, no namespace addresses, ids of its own, its quiet colours those of
    the page (light or dark).

    Args:
        label: what a screen reader says.
        salt: of the ids, one per figure of a page.
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
