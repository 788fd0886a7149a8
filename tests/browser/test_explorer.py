"""The explorer in JupyterLab: what the controls say, by keyboard and by mouse, is what `select` says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from browser.conftest import Lab, Seen, failures, with_teacher
from dipair_lib.reporting import criteria, explorer, explorer_picture, explorer_widgets

KEPT = "quality kept, at least"


@pytest.fixture(scope="module")
def executed(
    lab: Lab, results_folder: Path, run_all: Callable[[str], tuple[Seen, Any]], tmp_path_factory: Any
) -> tuple[Seen, pd.DataFrame]:
    """The executed notebook in the page, and the rows it shows."""
    out = tmp_path_factory.mktemp("explorer") / "results"
    with_teacher(shutil.copytree(results_folder, out), 6)
    seen, notebook = run_all(lab.add("05_explorer.live", {"out": str(out)}))
    assert failures(notebook) == []
    return seen, explorer.load(out)


@pytest.fixture
def opened(executed: tuple[Seen, pd.DataFrame]) -> tuple[Seen, pd.DataFrame]:
    """The same page with its controls as they were at first."""
    page = executed[0].page
    control(page, "scenario").scroll_into_view_if_needed()
    control(page, "scenario").select_option("many pairs, in bulk")
    control(page, KEPT).select_option("95 %")
    control(page, "with their whole intervals").set_checked(False)
    return executed


def control(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True).first


def by_keys(control: Locator, key: str) -> None:
    """Open a list, move in it and take what is there, by keyboard alone."""
    control.focus()
    for one in ("Space", key, "Enter"):
        control.press(one)


def shows(page: Page, data: pd.DataFrame, **limits: Any) -> criteria.Choice:
    """Check sentence, rings, caption and table against `select`."""
    choice, table = explorer.view(data, explorer.limits(**limits))
    expect(page.get_by_role("alert").filter(has_text=choice.sentence)).to_be_visible()
    caption = explorer_picture.caption(data, choice)
    rings = page.get_by_role("img", name=caption, exact=True).first
    expect(rings).to_be_visible()
    assert rings.locator("circle").count() == len(explorer_picture.ringed(choice))
    lines = page.locator(f"div:has(> p:text-is({caption!r})) > table").first.locator("tbody tr")
    found = [line.locator("td").all_inner_texts() for line in lines.all()]
    assert [[" ".join(cell.split()) for cell in line] for line in found] == [
        [" ".join(cell.split()) for cell in line] for line in table.astype(str).to_numpy().tolist()
    ]
    return choice


class TestExplorer:
    def test_by_mouse_and_by_keyboard_it_says_what_select_says(
        self, opened: tuple[Seen, pd.DataFrame]
    ) -> None:
        seen, data = opened
        page = seen.page
        first = shows(page, data)
        seen.picture("explorer")
        control(page, KEPT).select_option("50 %")  # a native list: the mouse picks an entry
        said = {shows(page, data, min_retained=0.5).sentence}
        control(page, "with their whole intervals").click()
        said.add(shows(page, data, min_retained=0.5, sure=True).sentence)
        by_keys(control(page, KEPT), "ArrowDown")  # from 50 % to 80 %
        said.add(shows(page, data, min_retained=0.8, sure=True).sentence)
        by_keys(control(page, KEPT), "End")
        said.add(shows(page, data, min_retained=1.0, sure=True).sentence)
        by_keys(control(page, "scenario"), "ArrowDown")
        choice = shows(page, data, scenario="single", min_retained=1.0, sure=True)
        assert len({*said, choice.sentence, first.sentence}) > 3
        control(page, "95 % of requests within").select_option("any")
        seen.picture("explorer-single")
        assert seen.errors == []

    def test_every_control_is_reached_by_tab(self, opened: tuple[Seen, pd.DataFrame]) -> None:
        page = opened[0].page
        control(page, "scenario").focus()
        labels = []
        for _ in range(12):
            page.keyboard.press("Tab")
            labels.append(
                page.evaluate(
                    "(document.activeElement.labels || [])[0]?.innerText || document.activeElement.innerText"
                )
            )
        expected = [
            text for name, text in explorer_widgets.LABELS.items() if name not in ("max_p95_s", "max_price")
        ]
        reached = [label.strip() for label in labels if label and label.strip() in expected]
        assert reached == expected
        assert "Export this view" in labels

    def test_its_widgets_break_no_rule_of_accessibility(self, opened: tuple[Seen, pd.DataFrame]) -> None:
        page = opened[0].page
        # JupyterLab's own page is not ours: the cells' outputs are.
        found = Axe().run(page, context=".jp-OutputArea-output")
        ours = [v for v in found.response["violations"] if v["id"] not in NOT_OURS]
        assert ours == [], found.generate_report()

    def test_the_view_comes_out_as_text(self, opened: tuple[Seen, pd.DataFrame]) -> None:
        page, data = opened[0].page, opened[1]
        control(page, KEPT).select_option("50 %")
        choice = shows(page, data, min_retained=0.5)
        page.get_by_role("button", name="Export this view").click()
        box = control(page, "this view as text")
        expect(box).to_be_visible()
        text = box.input_value()
        assert "min_retained = 0.5" in text and str(choice.winner or "# none") in text
        assert re.search(r"^only = ", text, re.M)


# Rules of a whole page, which a notebook's output is not.
NOT_OURS = {"region", "page-has-heading-one", "landmark-one-main"}
