"""The report as a file that was sent: at every size and in both lights it asks for nothing, fits, and can be read by everybody."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from browser.conftest import Lab, Seen, failures, with_teacher
from dipair_lib.evaluation import results
from dipair_lib.reporting import derived, notebook_pages, overview, report, report_details, selection, wording
from dipair_lib.system import contents, disk

SIZES = {"phone": (390, 844), "laptop": (1280, 800)}
EVIL = '<script>window.pwned="script"</script><img src=x onerror="window.pwned=1"><a href="javascript:alert(1)">x</a>\u202e\x1b[31m'


@pytest.fixture(scope="session")
def pages(results_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of one folder, one of a folder whose teacher failed, and one of both."""
    folder = tmp_path_factory.mktemp("reports")
    for name, signal in (("before", 6), ("failed", 0)):
        with_teacher(shutil.copytree(results_folder, folder / name), signal)
    return {
        "report": report.write(folder / "before"),
        "failed": report.write(folder / "failed"),
        "comparison": report.compare([folder / "before", folder / "failed"]),
    }


def rules_broken(seen: Seen) -> list[str]:
    """What axe-core finds, all its rules on."""
    found = Axe().run(seen.page)
    return [
        f"{violation['id']}: {node['target']} {node['html'][:120]}"
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("name", ["report", "failed", "comparison"])
@pytest.mark.parametrize("light", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_on_a_screen(
    name: str, light: str, size: str, pages: dict[str, Path], open_page: Callable[..., Seen]
) -> None:
    width, height = SIZES[size]
    seen = open_page(pages[name].as_uri(), width, height, color_scheme=light)
    seen.picture(f"{name}-{size}-{light}", full_page=True)
    assert seen.requests == [pages[name].as_uri()]
    assert seen.errors == []
    assert rules_broken(seen) == []
    assert seen.page.evaluate("document.scrollingElement.scrollWidth") <= width
    sideways = seen.page.eval_on_selector_all(".paper", "all => all.map(e => e.scrollWidth - e.clientWidth)")
    assert sideways and max(sideways) <= 0, "a figure is seen whole"


def test_in_print(pages: dict[str, Path], open_page: Callable[..., Seen]) -> None:
    for name, path in pages.items():
        seen = open_page(path.as_uri(), 794, 1123, color_scheme="dark")  # A4; dark readers print on white too
        seen.page.emulate_media(media="print")
        seen.picture(f"{name}-print", full_page=True)
        assert rules_broken(seen) == []
        assert seen.page.evaluate("document.scrollingElement.scrollWidth") <= 794
        heights = seen.page.eval_on_selector_all(
            ".paper", "all => all.map(e => e.getBoundingClientRect().height)"
        )
        assert heights and max(heights) < 1123 - 2 * 60, "a figure fits on a page and is not cut"
        tables = seen.page.eval_on_selector_all(
            "details:not([open]) table",
            "all => all.map(e => e.checkVisibility({contentVisibilityAuto: true}))",
        )
        assert tables and all(tables), "closed on the screen, a table is open on paper"
        assert len(seen.page.pdf(format="A4")) > 10_000
        assert seen.requests == [path.as_uri()]


def test_a_failed_teacher_is_the_first_thing_said(
    pages: dict[str, Path], open_page: Callable[..., Seen]
) -> None:
    first = open_page(pages["failed"].as_uri()).page.locator(".card").first
    assert first.is_visible() and "The teacher failed" in first.inner_text()
    healthy = open_page(pages["report"].as_uri()).page
    assert healthy.get_by_text("The teacher failed").count() == 0


def test_says_what_the_rows_say(pages: dict[str, Path], open_page: Callable[..., Seen]) -> None:
    folder = pages["report"].parent
    data = derived.frame(results.load_results(folder), folder=folder)
    page = open_page(pages["report"].as_uri()).page
    for name, table in report.split(overview.table(data)).items():
        region = page.get_by_role("region", name=name)
        assert region.locator("th").all_inner_texts() == list(table.columns)
        found = [line.locator("td").all_inner_texts() for line in region.locator("tbody tr").all()]
        assert [[cell.strip() for cell in line] for line in found] == table.astype(str).to_numpy().tolist()
    shown = {column for table in report.split(overview.table(data)).values() for column in table}
    assert shown == set(overview.table(data))
    titles = page.eval_on_selector_all("figure:first-of-type svg title", "all => all.map(e => e.textContent)")
    for run, row in data.iterrows():
        if wording.known(row["quality"]) and wording.known(row["pairs_per_s"]):
            assert overview.hover(row) in titles, run
    sentence = selection.select(data, report_details.LIMITS[0]).sentence
    assert page.get_by_text(sentence).first.is_visible()


class TestHostile:
    """Names of models and tasks that hold scripts, handlers, addresses, direction marks and terminal codes."""

    @pytest.fixture
    def spoiled(self, results_folder: Path, tmp_path: Path) -> Path:
        out = tmp_path / "results"
        shutil.copytree(results_folder, out)
        for row in results.load_results(out):
            evil = dataclasses.replace(row, model=f"{row.model} {EVIL}", task=EVIL, backbone=EVIL)
            folder = results.row_folder(out, row.run_id)
            row_text = (evil.to_json() + "\n").encode("utf8")
            disk.write_hashed(folder / "row.json", row_text, folder / contents.SUMS)
        return out

    def test_in_reports_they_are_text(self, spoiled: Path, open_page: Callable[..., Seen]) -> None:
        other = spoiled.with_name("other")
        shutil.copytree(spoiled, other)
        for path in (report.write(spoiled), report.compare([spoiled, other])):
            seen = open_page(path.as_uri())
            seen.page.wait_for_timeout(300)
            assert seen.ran() == [] and seen.requests == [path.as_uri()]
            assert seen.page.locator("script, img, a[href^=javascript]").count() == 0
            assert "<script>" in seen.page.inner_text("body")

    def test_in_jupyterlab_and_the_rendered_notebook_they_are_text(
        self,
        spoiled: Path,
        lab: Lab,
        run_all: Callable[[str], tuple[Seen, Any]],
        open_page: Callable[..., Seen],
    ) -> None:
        given: dict[str, Any] = {"out": str(spoiled), "query": EVIL, "candidates": [EVIL, "red car"]}
        every: dict[str, dict[str, Any]] = {
            "05_explorer.hostile": given,
            "04_tradeoff.hostile": {"out": str(spoiled), "clock": "none"},
        }
        for name, parameters in every.items():
            file = lab.add(name, parameters)
            seen, notebook = run_all(file)
            assert failures(notebook) == []
            seen.page.keyboard.press("Control+Home")
            seen.page.wait_for_timeout(500)
            assert seen.ran() == [], name
            shutil.copy(lab.folder / file, spoiled / "notebooks" / file)
        for path in notebook_pages.notebooks(spoiled):
            seen = open_page(path.as_uri())
            assert seen.ran() == [] and seen.requests == [path.as_uri()], path.name
            if "hostile" in path.name:
                assert "<script>" in seen.page.inner_text("body")
