"""Names beside points that cover neither each other nor a point."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.text import Annotation
from matplotlib.textpath import text_to_path

from dipair_lib.reporting.figures import style


def label_points(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    names: list[str],
    wanted: np.ndarray | None = None,
    avoid: Iterable[tuple[float, float, float, float]] = (),
    size: float = 8.5,
) -> list[Annotation]:
    """Name points so that no label covers another label or a point; a thin line leads where a label stands
    away.

    Greedy over places around each point, then improved twice. x, y: [points] in data units; wanted: [points]
    bool; avoid: lines (x0, y0, x1, y1) in data units that labels should rather not cross.
    """
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # settles the layout the labels are placed in
    points = (
        ax.transData.transform(np.column_stack([x, y])) * 72 / ax.figure.dpi
    )  # [points, 2], in typographic points
    frame_box = np.asarray(ax.get_window_extent().extents) * 72 / ax.figure.dpi
    font = FontProperties(size=size)
    chosen = np.flatnonzero(wanted if wanted is not None else np.ones(len(names), bool)).tolist()
    markers = np.column_stack([points - 6, points + 6])
    lines = np.array(list(avoid), dtype=float).reshape(-1, 2)
    lines = (ax.transData.transform(lines) * 72 / ax.figure.dpi).reshape(-1, 4) + (-1, -1, 1, 1)
    offsets = np.array(
        [
            (radius * math.cos(angle), radius * math.sin(angle))
            for radius in (9.0, 15.0, 24.0, 36.0, 50.0, 66.0)
            for angle in np.linspace(0, 2 * math.pi, 16, endpoint=False)
        ]
    )
    places: dict[int, np.ndarray] = {}
    shifts: dict[int, np.ndarray] = {}
    for _ in range(3):
        for i in chosen:
            width, height, _descent = text_to_path.get_text_width_height_descent(names[i], font, ismath=False)
            # Anchor the side of the label that faces the point.
            side = np.clip(offsets[:, 0] / 9.0, -1, 1)
            corner = (
                points[i]
                + offsets
                + np.column_stack([(side - 1) / 2 * width, np.full(len(offsets), -height / 2)])
            )
            boxes = np.column_stack([corner, corner + (width, height)])
            others = [box for j, box in places.items() if j != i]
            cost = 0.4 * np.hypot(*offsets.T) + 8 * overlap(boxes, markers).sum(axis=1)
            cost += 0.4 * overlap(boxes, lines).sum(axis=1)
            if others:
                cost += 12 * overlap(boxes, np.array(others)).sum(axis=1)
            outside = np.maximum(0, frame_box[:2] - boxes[:, :2]) + np.maximum(
                0, boxes[:, 2:] - frame_box[2:]
            )
            cost += 200 * outside.sum(axis=1)
            best = int(np.argmin(cost))
            places[i], shifts[i] = boxes[best], boxes[best, :2] - points[i]
    notes = []
    for i in chosen:
        box = places[i]
        nearest = np.clip(points[i], box[:2], box[2:])
        far = np.hypot(*(nearest - points[i])) > 13
        note = ax.annotate(
            names[i],
            (x[i], y[i]),
            xytext=tuple(shifts[i]),
            textcoords="offset points",
            fontsize=size,
            color=style.INK,
            ha="left",
            va="bottom",
            zorder=6,
            annotation_clip=False,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": style.MUTED, "lw": 0.6, "shrinkA": 0, "shrinkB": 5}
            if far
            else None,
        )
        note.set_in_layout(False)
        notes.append(note)
    return notes


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Overlap areas [boxes, others] of boxes given as x0, y0, x1, y1."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.prod(np.maximum(0, high - low), axis=2)
