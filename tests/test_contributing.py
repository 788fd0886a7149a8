"""The recipes of CONTRIBUTING.md are followed: its head works as it stands there, its suite is one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipair_lib import Scorer, models
from dipair_lib.models import heads
from dipair_lib.runner import suite_file

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf8")
HEAD, ENTRY = re.findall(r"```python\n(.*?)```", PAGE, re.S)
(SUITE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


@pytest.fixture
def outer() -> Iterator[type[models.Head]]:
    """The head of the page, entered as it says."""
    names: dict[str, Any] = {"HEADS": heads.HEADS}
    exec(HEAD + ENTRY, names)
    yield names["OuterHead"]
    del heads.HEADS["outer"]


def test_a_tile_is_the_textbook_form_of_each_pair(outer: type[models.Head]) -> None:
    torch.manual_seed(0)
    head: Any = outer([6, 6])
    kept = [models.Kept(torch.randn(n, 3, 6), torch.ones(n, 3).bool()) for n in (2, 4)]
    left, right = (head.prepare(one, field)[0] for field, one in enumerate(kept))
    tile = head.combine((left[:, None],), (right[None],))
    assert tile.shape == (2, 4, 1)
    for i, j in np.ndindex(2, 4):
        means = [side.vectors[k].mean(0) for side, k in zip(kept, (i, j), strict=True)]
        a, b = (layer(mean) for layer, mean in zip(head.sides, means, strict=True))
        torch.testing.assert_close(tile[i, j], head.out(torch.outer(a, b).flatten()))


def test_a_student_with_it_is_saved_loaded_and_scores(
    outer: type[models.Head], tiny_backbone: str, tmp_path: Path
) -> None:
    model = models.DualEncoder(tiny_backbone, (8, 8), head="outer", keep=(2, 2), projection=8).eval()
    assert model.describe()["model"].startswith("DiPair-outer k=2")
    models.save(model, tmp_path / "model")
    texts = ["red car", "blue house"]
    scores = [Scorer(one).score(texts, texts) for one in (model, models.load(tmp_path / "model"))]
    np.testing.assert_array_equal(scores[0], scores[1])


def test_its_suite_is_one(outer: type[models.Head], tmp_path: Path) -> None:
    notebooks = Path(__file__).parents[1] / "notebooks"
    (tmp_path / "mine.yaml").write_text(SUITE, encoding="utf8")
    runs = suite_file.read_suite(tmp_path / "mine.yaml", notebooks_dir=notebooks, out=tmp_path / "out").runs
    assert [run.notebook for run in runs] == ["01_teacher", "03_dipair", "04_tradeoff"]
    assert runs[1].parameters["head"] == "outer"
