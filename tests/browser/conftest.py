"""A measured folder, JupyterLab as `make lab` starts it, and the system's Chromium, once per session."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import Browser, Dialog, Page, sync_playwright
from test_notebooks import FOLDER, OWN

from dipair_lib.evaluation import bootstrap, metrics, results
from dipair_lib.runner import suite
from dipair_lib.system import disk

ROOT = FOLDER.parent
PICTURES = ROOT / ".screenshots"
WAIT = 60_000  # ms for anything in a page; a busy machine is slow, a page that hangs is wrong
RUN = 420  # s for a notebook
SMALL = {name: value for name, value in OWN.items() if name != "clock"}  # 04_tradeoff keeps its clock


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder of its own: a copy of the notebooks, and beside it what they make."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(FOLDER, folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return folder


@pytest.fixture(scope="session")
def results_folder(pairs: pd.DataFrame, tiny_backbone: str, home: Path) -> Path:
    """The smoke suite's results, on 360 pairs of a CSV with the tiny backbone."""
    many = [
        pairs.assign(group=pairs["group"] + 1000 * i, query=pairs["query"] + f" {word}")
        for i, word in enumerate(["red", "old", "sleeps"])
    ]
    pd.concat(many)[["query", "passage", "label"]].to_csv(home / "pairs.csv", index=False)
    given = {"task": "pairs.csv", "fields": "[query, passage]", "label": "label", "backbone": tiny_backbone}
    with contextlib.chdir(home):
        run = suite.run_suite(
            "notebooks/suites/smoke.yaml", given | SMALL, jobs=2, out="results", stream=sys.stdout
        )
    assert run == 0
    return home / "results"


def with_teacher(folder: Path, signal: float) -> Path:
    """The same results with a teacher whose logits are so much of the labels, and noise; every share is one of its quality.

    Words in common and the frozen cosine nearly tell the labels of these pairs, so that no teacher is surely above them: with 0 the guard
    trips; with 6 it does not, since the logits of untrained rows are noise then.
    """
    rows = results.load_results(folder)
    name = next(row.run_id for row in rows if row.teacher_run == row.run_id)
    stored = results.load_logits(folder, name)
    taught = np.random.default_rng(0).normal(size=stored.logits.shape)
    taught[:, -1] += signal * (2 * stored.labels - 1)
    for row in rows:
        if row.teacher_run == name:
            own = results.load_logits(folder, row.run_id)
            noise = np.random.default_rng(1).normal(size=own.logits.shape)
            untrained = row.family == "lexical" or (row.family == "dual-encoder" and not row.steps)
            floor = noise if signal and untrained else own.logits
            logits = taught if row.run_id == name else floor
            found = bootstrap.interval(row.metric, own.labels, logits, own.groups, teacher_logits=taught)
            others = metrics.evaluate(list(json.loads(row.metrics or "{}")), own.labels, logits, own.groups)
            made = dataclasses.replace(row, **found, metrics=disk.canonical_json(others))
            results.save_result(folder, made, logits, own.labels, own.groups)
    return folder


@dataclass
class Lab:
    """A running JupyterLab: where it is, who may in, whose process, what folder it shows."""

    url: str
    token: str
    pid: int
    folder: Path

    def get(self, path: str) -> Any:
        """JSON of the server's own interface."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def add(self, name: str, parameters: dict[str, Any], source: Path | None = None) -> str:
        """A copy of a notebook with parameters set as papermill sets them; its name in the folder."""
        notebook = load_notebook_node(str(source or FOLDER / f"{name.split('.')[0]}.ipynb"))
        notebook = parameterize_notebook(notebook, parameters)
        notebook.metadata.pop("papermill", None)
        nbformat.write(notebook, self.folder / f"{name}.ipynb")
        return f"{name}.ipynb"


@pytest.fixture(scope="session")
def lab(home: Path) -> Iterator[Lab]:
    """The command of `make lab` itself, on a port of its own and without opening a browser."""
    recipe = re.search(r"^lab:.*\n\t(.+)$", (ROOT / "Makefile").read_text(encoding="utf8"), re.M)
    assert recipe, "the Makefile has no verb lab"
    command = shlex.split(recipe[1].replace("$(BIN)", str(Path(sys.executable).parent)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Jupyter refuses to serve as root, which a container's only user is.
    root = ["--allow-root"] if os.geteuid() == 0 else []
    own = {
        f"JUPYTER_{kind}_DIR": str(home / kind.lower())
        for kind in ("CONFIG", "DATA", "RUNTIME", "PREFER_ENV")
    }
    own |= {f"JUPYTERLAB_{kind}_DIR": str(home / kind.lower()) for kind in ("SETTINGS", "WORKSPACES")}
    own |= {"IPYTHONDIR": str(home / "ipython"), "PYTHONPATH": str(ROOT)}
    with open(home / "log", "wb") as log:
        server = subprocess.Popen(
            [*command, "--no-browser", f"--ServerApp.port={port}", *root],
            cwd=home,
            env={**os.environ, **own},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield wait_for_lab(server, home)
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def wait_for_lab(server: subprocess.Popen, home: Path) -> Lab:
    """The server as it describes itself, once it answers."""
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        for file in (home / "runtime").glob("jpserver-*.json"):
            told = json.loads(file.read_text(encoding="utf8"))
            lab = Lab(told["url"].rstrip("/"), told["token"], told["pid"], Path(told["root_dir"]))
            try:
                lab.get("/api/status")
                return lab
            except OSError:
                pass
        time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not start:\n{(home / 'log').read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's browser; none is downloaded, and without one nothing here is proven."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.fail(
            "expected chromium, chromium-browser or google-chrome on the PATH, but found none: "
            "install one (Debian: apt-get install chromium)",
            pytrace=False,
        )
    quiet = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=[f"--{flag}" for flag in quiet.split()]
        )
        yield browser
        browser.close()


@dataclass
class Seen:
    """A page and what happened in it besides what it shows."""

    page: Page
    requests: list[str]
    dialogs: list[str]
    errors: list[str]

    def picture(self, name: str, **options: Any) -> None:
        self.page.screenshot(path=PICTURES / f"{name}.png", **options)

    def dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def ran(self) -> list[str]:
        """What text from data did that it must not: dialogs, and the flag that every hostile text of these tests sets."""
        return self.dialogs + self.page.evaluate("window.pwned ? [String(window.pwned)] : []")


@pytest.fixture(scope="module")
def open_page(chromium: Browser) -> Iterator[Callable[..., Seen]]:
    """Opens pages, each in a fresh profile."""
    contexts = []

    def opened(url: str, width: int = 1280, height: int = 800, **options: Any) -> Seen:
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        seen = Seen(page, [], [], [])
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("dialog", seen.dialog)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.goto(url)
        return seen

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def open_notebook(lab: Lab, open_page: Callable[..., Seen]) -> Callable[[str], Seen]:
    """Opens a notebook of the lab's folder in JupyterLab, its kernel ready."""

    def opened(name: str) -> Seen:
        seen = open_page(f"{lab.url}/lab/tree/{name}?reset&token={lab.token}", height=1000)
        seen.page.get_by_role("menuitem", name="Run", exact=True).wait_for()
        wait_until(lambda: kernel(lab, name).get("execution_state") == "idle", 120, f"{name}: no kernel")
        return seen

    return opened


@pytest.fixture(scope="module")
def run_all(lab: Lab, open_notebook: Callable[[str], Seen]) -> Callable[[str], tuple[Seen, Any]]:
    """Opens a notebook, runs all its cells through the menu, and reads what it saved."""

    def run(name: str) -> tuple[Seen, Any]:
        seen = open_notebook(name)
        seen.page.get_by_role("menuitem", name="Run", exact=True).click()
        seen.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        done: list[Any] = []

        def finished() -> bool:
            idle = kernel(lab, name).get("execution_state") == "idle"
            seen.page.keyboard.press("Control+s")
            seen.page.wait_for_timeout(500)
            notebook = nbformat.read(lab.folder / name, as_version=4)
            done[:] = [notebook]
            cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
            return idle and (all(cell.execution_count for cell in cells) or bool(failures(notebook)))

        wait_until(finished, RUN, f"{name}: did not finish")
        return seen, done[0]

    return run


def failures(notebook: Any) -> list[str]:
    """The errors among a notebook's outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"]


def kernel(lab: Lab, name: str) -> dict[str, Any]:
    """A notebook's kernel, as the server knows it; empty where it has none yet."""
    found = [one["kernel"] for one in lab.get("/api/sessions") if one["path"] == name]
    return found[0] if found else {}


def wait_until(condition: Callable[[], bool], seconds: float, message: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{message} within {seconds:.0f} s"
        time.sleep(0.5)
