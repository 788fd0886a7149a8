"""JupyterLab as `make lab` starts it: who gets in, and every notebook run in it by its menu."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest
from test_notebooks import NAMES

from browser.conftest import Lab, Seen, failures


class TestServer:
    def test_listens_on_this_machine_alone(self, lab: Lab) -> None:
        server = psutil.Process(lab.pid)
        listening = [
            c.laddr
            for process in (server, *server.children(recursive=True))
            for c in process.net_connections()
            if c.status == psutil.CONN_LISTEN
        ]
        assert {address.port for address in listening} >= {urlsplit(lab.url).port}
        assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}

    @pytest.mark.parametrize("token", ["", "?token=wrong"])
    def test_nothing_without_its_token(self, lab: Lab, token: str) -> None:
        assert len(lab.token) >= 32
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{lab.url}/api/contents{token}", timeout=30)
        with urllib.request.urlopen(f"{lab.url}/lab{token}", timeout=30) as answer:
            assert urlsplit(answer.url).path == "/login"
        assert [
            entry["name"] for entry in lab.get("/api/contents")["content"] if entry["name"] in NAMES
        ] == []


def parameters_of(folder: Path, name: str) -> dict[str, Any]:
    """What the smoke suite gave a notebook, and small sizes for those that it leaves out."""
    small = {"05_explorer": {}, "06_scale": {"most": 100}}
    if name in small:
        return small[name]
    executed = next((folder / "notebooks").glob(f"{name}-*.ipynb"))
    return dict(nbformat.read(executed, as_version=4).metadata.papermill.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_run_all_ends_without_an_error(
    name: str, lab: Lab, results_folder: Path, run_all: Callable[[str], tuple[Seen, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "results"
    shutil.copytree(results_folder, out)
    file = lab.add(name, {**parameters_of(results_folder, name), "out": str(out)})
    seen, notebook = run_all(file)
    assert failures(notebook) == []
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert seen.page.get_by_text("Traceback (most recent call last)").count() == 0
    assert {urlsplit(url).netloc for url in seen.requests if url.startswith("http")} == {
        urlsplit(lab.url).netloc
    }
    seen.picture(f"jupyterlab-{name}")
