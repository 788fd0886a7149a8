"""Facts about pages: figures follow the page's colours, executed notebooks become pages that fetch and run nothing."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from matplotlib.figure import Figure

from dipair_lib import cli
from dipair_lib.evaluation import verification
from dipair_lib.reporting import notebook_pages
from dipair_lib.reporting.figures import fonts, inline, style
from dipair_lib.system import disk

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(30)).decode()
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)><a href='javascript:alert(3)'>go</a><iframe src='https://evil.example'></iframe>"


class TestFigures:
    @pytest.fixture
    def drawn(self) -> str:
        figure = Figure()
        ax = figure.subplots()
        style.style_axes(ax)
        ax.plot([0, 1], [0, 1], color="#0072b2", marker="o", mfc=style.CARD, mec=style.INK)
        ax.set_title("black as matplotlib has it")
        return inline.inline(figure, "a line", "salt")

    def test_ink_paper_and_grid_are_the_pages(self, drawn: str) -> None:
        for colour, name in inline.PAGE.items():
            assert drawn.count(colour) == drawn.count(f"var(--{name}, {colour})"), (
                "alone where the page has no colours"
            )
        for name in ("ink", "muted", "line", "card"):
            assert f"var(--{name}, " in drawn

    def test_a_familys_colour_stays(self, drawn: str) -> None:
        assert "#0072b2" in drawn

    def test_the_page_has_these_colours_in_light_and_dark(self) -> None:
        page = (Path(inline.__file__).parents[1] / "templates" / "report.html.j2").read_text(encoding="utf8")
        light, dark = re.findall(r":root \{([^}]*)\}", page)[:2]
        for colour, name in inline.PAGE.items():
            name = f"--{name}"
            assert name in light and name in dark
            if colour != "#000000":
                assert f"{name}: {colour};" in light


def notebook(folder: Path, *outputs: Any, name: str = "01_teacher-0") -> Path:
    """An executed notebook with one text cell and one code cell."""
    cells = [
        nbformat.v4.new_markdown_cell(f"# The story\n\n[paper](https://example.org) {HOSTILE}"),
        nbformat.v4.new_code_cell("secret_input = 1", outputs=list(outputs), execution_count=1),
    ]
    path = folder / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def shown(**data: str) -> Any:
    return nbformat.v4.new_output(
        "display_data", {name.replace("_", "/"): value for name, value in data.items()}
    )


class TestNotebooks:
    def test_nothing_is_fetched_and_nothing_runs(self, tmp_path: Path) -> None:
        widget = nbformat.v4.new_output(
            "display_data",
            {
                "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
                "application/javascript": "alert(5)",
            },
        )
        notebook(
            tmp_path,
            shown(text_html=HOSTILE + "<svg onload=alert(4)></svg>"),
            widget,
            shown(text_markdown=HOSTILE),
        )
        (page,) = notebook_pages.notebooks(tmp_path)
        text = page.read_text(encoding="utf8")
        assert not re.search(
            r"<script|<iframe|<link|<svg|onerror|onload|javascript:|https?://|@import|url\(", text
        )
        assert re.findall(r'(?:src|href)="([^"]{0,11})', text) == ["data:image/"]
        assert "default-src 'none'" in text

    def test_prose_tables_and_pictures_stay_and_inputs_go(self, tmp_path: Path) -> None:
        table = "<style>td {color: red}</style><table><thead><tr><th>model</th></tr></thead><tbody><tr><td>0.9</td></tr></tbody></table>"
        vector = nbformat.v4.new_output(
            "display_data", {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'/>"}
        )
        notebook(
            tmp_path,
            shown(text_html=table),
            shown(image_png=PNG),
            vector,
            nbformat.v4.new_output("stream", text="1 < 2\n"),
        )
        text = notebook_pages.notebooks(tmp_path)[0].read_text(encoding="utf8")
        assert "<th>model</th>" in text and "<td>0.9</td>" in text and "color: red" not in text
        assert re.search(r"<h1[^>]*>The story", text) and "paper" in text
        assert f"data:image/png;base64,{PNG}" in text and "data:image/svg+xml;base64," in text
        assert text.count("<img ") == text.count("alt=")
        assert "1 &lt; 2" in text and "secret_input" not in text

    def test_progress_bars_go(self, tmp_path: Path) -> None:
        notebook(tmp_path, nbformat.v4.new_output("stream", name="stderr", text="training 50%|#####"))
        assert "training 50%" not in notebook_pages.notebooks(tmp_path)[0].read_text(encoding="utf8")

    def test_a_failed_one_is_marked_with_its_error(self, tmp_path: Path) -> None:
        error = nbformat.v4.new_output(
            "error", ename="ValueError", evalue="<b>no</b> rows\x1b[0m", traceback=["\x1b[31mline 1\x1b[0m"]
        )
        path = notebook(tmp_path, error, name="02_bilstm-1.failed")
        (page,) = notebook_pages.notebooks(tmp_path)
        text = page.read_text(encoding="utf8")
        assert page == path.with_suffix(".html")
        assert (
            "This notebook failed." in text
            and "ValueError: &lt;b&gt;no&lt;/b&gt; rows" in text
            and "line 1" in text
        )
        assert "\x1b" not in text

    def test_the_page_of_a_run_that_succeeded_since_goes(self, tmp_path: Path) -> None:
        path = notebook(tmp_path, name="02_bilstm-1.failed")
        (old,) = notebook_pages.notebooks(tmp_path)
        path.rename(path.with_name("02_bilstm-1.ipynb"))
        assert [page.name for page in notebook_pages.notebooks(tmp_path)] == ["02_bilstm-1.html"]
        assert not old.exists()

    def test_a_results_folder_with_them_has_no_foreign_file(self, tmp_path: Path) -> None:
        notebook(tmp_path)
        notebook_pages.notebooks(tmp_path)
        assert verification.foreign_files(tmp_path) == []

    def test_the_command_names_each_page(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = notebook(tmp_path)
        assert cli.main(["report", str(tmp_path), "--notebooks"]) == 0
        assert capsys.readouterr().out == f"{path.with_suffix('.html')}\n"

    @pytest.mark.parametrize(
        "content", ["", "{}", "[1]", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}']
    )
    def test_what_is_no_notebook_is_named(self, tmp_path: Path, content: str) -> None:
        with pytest.raises(disk.ResultError, match="no executed notebook"):
            notebook_pages.notebooks(tmp_path)
        path = notebook(tmp_path)
        path.write_text(content, encoding="utf8")
        with pytest.raises(disk.ResultError, match="is not a notebook"):
            notebook_pages.notebooks(tmp_path)


def test_fonts_of_other_scripts_are_looked_up_where_they_are_installed() -> None:
    """matplotlib's own first, so that pictures look the same with them and without."""
    assert fonts.families({"Noto Sans Arabic", "Comic Sans", "WenQuanYi Micro Hei", "DejaVu Sans"}) == [
        "DejaVu Sans", "WenQuanYi Micro Hei", "Noto Sans Arabic",
    ]  # fmt: skip
    assert fonts.families()[0] == "DejaVu Sans"


def test_names_without_a_font_are_spelt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "glyphs", lambda: frozenset(map(ord, "task 1ü:")))
    assert fonts.drawable("task 1ü: 한글, हिन्दी 中 ガ") == "task 1ü: hangeul? hainadaii [4E2D] ga"
    assert fonts.drawable("tü a") == "tü a"
