"""What somebody who waits for a training sees in a notebook, run by a real kernel."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from dipair_lib.system import progress

TRAIN = """
import time
from dipair_lib.system import progress
progress.Curves.AFTER_S = 0.01
curves = progress.Curves("training <b>", 40, "auc")
for step in range(1, 41):
    if step in curves.looks:
        curves.dev.append((step, step / 50))
    curves.pause = 0.01
    time.sleep(0.01)
    curves.add(step, 1 / step, 32)
curves.end()
print(sorted(curves.looks))
"""


def outputs_of(source: str) -> list[Any]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    return notebook.cells[0].outputs


def test_in_a_notebook_one_picture_is_drawn_again_and_again() -> None:
    picture, said = outputs_of(TRAIN)
    shown = picture.data["text/html"]
    assert shown.startswith('<img alt="training &lt;b&gt;: step 40 of 40, loss 0.025, ')
    assert "data:image/png;base64,iVBOR" in shown
    assert said.text.strip() == "[5, 10, 15, 20, 25, 30, 35, 40]"


def test_under_a_suite_the_last_picture_alone_and_no_looks_at_dev(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv(progress.FILE_VARIABLE, str(tmp_path / "progress.json"))
    picture, said = outputs_of(TRAIN)
    assert "data:image/png" in picture.data["text/html"] and said.text.strip() == "[]"


def test_outside_a_notebook_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    exec(TRAIN, {})
    assert capsys.readouterr().out.strip() == "[]"


def test_a_stopped_training_is_one_line_in_a_notebook() -> None:
    source = "from dipair_lib.system import progress\nraise progress.Stopped('training', 3, 9, True)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3", timeout=120, allow_errors=True).execute()
    (error,) = notebook.cells[0].outputs
    assert error.traceback == [
        "training: stopped after step 3 of 9. The model holds the best weights so far. Run this cell again to go on from here."
    ]
