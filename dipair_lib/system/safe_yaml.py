"""YAML that may come from anybody: plain values only, and refused before it unfolds where its anchors make
much of little.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_TEXT = 1 << 18  # characters; the suites here have some thousands
MOST_VALUES = 100_000  # once every ``*name`` and ``<<`` is written out


def load(text: str) -> Any:
    """What ``yaml.safe_load`` gives.

    Raises:
        ValueError: the text is too long, unfolds to too many values, or holds itself. What PyYAML raises for
            text that is no YAML.
    """
    if len(text) > MOST_TEXT:
        raise ValueError(f"expected at most {MOST_TEXT:,} characters, but got {len(text):,}")
    tree = yaml.compose(text, yaml.SafeLoader)
    if tree is None:
        return None
    if unfolded(tree, {}, set()) > MOST_VALUES:
        raise ValueError(f"its anchors unfold to more than {MOST_VALUES:,} values: write out what is needed")
    return yaml.safe_load(text)


def unfolded(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Values below a node, itself among them, each as often as it is named. ``known``: counted before.
    ``above``: those it is in.
    """
    at = id(node)
    if at in above:
        raise ValueError("an anchor that holds itself")
    if at not in known:
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        below = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        known[at] = 1 + sum(unfolded(one, known, above | {at}) for one in below)
    return known[at]
