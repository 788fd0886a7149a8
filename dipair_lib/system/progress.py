"""Progress of long work: a bar and a training's curves for the person who waits, and a small file for the
suite that runs many notebooks at once; and how such work is interrupted.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from dipair_lib.system import disk

Item = TypeVar("Item")
FILE_VARIABLE = (
    "DIPAIR_PROGRESS"  # the suite names a file here: bars would stand still in an executed notebook
)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items and show how many are done and how long the rest will take; without a name (``what``)
    nothing is shown.

    Under a suite (``DIPAIR_PROGRESS`` names a file) no bar is drawn; the file holds ``{"what", "done",
    "total", "eta_s"}`` instead.
    """
    if not what:
        yield from items
        return
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if not os.environ.get(FILE_VARIABLE):
        yield from tqdm(items, desc=what, total=total, leave=False, mininterval=0.5)
        return
    start = last = time.monotonic()
    say(what, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last > 0.5:
            last = now
            say(what, done, total, None if not total else (now - start) / done * (total - done))


def say(what: str, done: int = 0, total: int | None = None, eta_s: float | None = None) -> None:
    """Write one state for the suite's display; nothing happens outside a suite."""
    path = os.environ.get(FILE_VARIABLE)
    if not path:
        return
    state = {"what": what, "done": done, "total": total, "eta_s": eta_s}
    # a display that cannot be written must not stop a training
    with contextlib.suppress(OSError), disk.replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(state), encoding="utf8")


class Curves:
    """The loss and a dev metric of a training against its steps, as a picture in the notebook where it runs:
    redrawn while somebody waits for it, drawn once at the end under a suite, and nowhere else. A training of
    some seconds shows none.

    Attributes:
        looks: steps after which the dev metric is wanted; none under a suite, which would only be slowed
            down.
        dev: (step, metric), filled by the training.
    """

    AFTER_S, LOOKS = 5.0, 8

    def __init__(self, what: str, steps: int, metric: str = "") -> None:
        self.what, self.steps, self.metric = what, steps, metric
        self.live = in_notebook() and not os.environ.get(FILE_VARIABLE)
        self.looks = (
            set(np.linspace(0, steps, self.LOOKS + 1)[1:].astype(int).tolist()) if self.live else set()
        )
        self.dev: list[tuple[int, float]] = []
        self.losses: list[tuple[int, float]] = []
        self.rows, self.shown = 0, None
        self.begun = self.drawn = time.monotonic()
        self.pause = self.AFTER_S

    def add(self, step: int, loss: float, rows: int) -> None:
        """The loss after a step of so many rows."""
        self.losses.append((step, loss))
        self.rows += rows
        if self.live and time.monotonic() - self.drawn > self.pause:
            self.draw()

    def end(self) -> None:
        """The last picture."""
        if in_notebook() and time.monotonic() - self.begun > self.AFTER_S:
            self.draw()

    def draw(self) -> None:
        """Put the picture in its place. Drawing takes at most a thirtieth of the time."""
        from IPython.display import display

        begun = time.monotonic()
        last, rate = self.losses[-1], self.rows / (begun - self.begun)
        said = f"{self.what}: step {last[0]:,} of {self.steps:,}, loss {last[1]:.3g}, {rate:,.0f} rows/s"
        picture = image(self.picture(said), said)
        if self.shown is None:
            self.shown = display(picture, display_id=True)
        else:
            self.shown.update(picture)
        self.drawn = time.monotonic()
        self.pause = max(2.0, 30 * (self.drawn - begun))

    def picture(self, said: str) -> bytes:
        """PNG: the loss, and beside it the dev metric where there is one."""
        from matplotlib.figure import Figure

        lines = {"loss (running mean)": self.losses[:: max(1, len(self.losses) // 400)]}
        if self.dev:
            lines[f"dev {self.metric}, some rows"] = self.dev
        figure = Figure(figsize=(7.2, 2.3), layout="constrained")
        figure.suptitle(said, fontsize=9, x=0.01, ha="left")
        for axes, (name, points) in zip(
            figure.subplots(1, len(lines), squeeze=False)[0], lines.items(), strict=True
        ):
            axes.plot(*zip(*points, strict=True), "-o", markersize=3 if name.startswith("dev") else 0)
            axes.set(title=name, xlabel="step", xlim=(0, self.steps))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
        return buffer.getvalue()


def image(png: bytes, alt: str) -> Any:
    """A picture for a notebook, with words for who cannot see it; JupyterLab drops those of an image output."""
    from IPython.display import HTML

    source = base64.b64encode(png).decode()
    return HTML(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{source}" style="max-width:100%">')


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    module = sys.modules.get("IPython")
    return module is not None and hasattr(module.get_ipython(), "kernel")


class Stopped(KeyboardInterrupt):
    """A training that Ctrl-C ended after a step; in a notebook it is shown as one line."""

    def __init__(self, what: str, step: int, steps: int, goes_on: bool) -> None:
        again = " Run this cell again to go on from here." if goes_on else ""
        super().__init__(
            f"{what}: stopped after step {step:,} of {steps:,}. The model holds the best weights so far.{again}"
        )

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back while a step is under way: gives a function that says whether it was pressed. Pressed
    twice, it interrupts at once; outside the main thread it always does.
    """
    pressed: list[Any] = []

    def note(*_: Any) -> None:
        pressed.append(True)
        signal.signal(signal.SIGINT, before)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
