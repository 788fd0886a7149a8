"""Stored models ask no network, whatever name of a hub's model they hold; the hub's cache on this machine is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dipair_lib import models
from dipair_lib.models import offline
from dipair_lib.scoring.scorer import Scorer

NAME = "somebody/tiny-bert"


def stored(backbone: str, folder: Path, kind: str = "student") -> Path:
    """A model made from a hub's model, whose weights are its own except those of a frozen encoder."""
    torch.manual_seed(0)
    model = (
        models.CrossEncoder(backbone, (8, 12))
        if kind == "teacher"
        else models.DualEncoder(backbone, (8, 12), (0, 0), True, 0, "cosine")
    )
    models.save(model, folder / "model", frozen_encoder=kind == "student")
    config = json.loads((folder / "model" / "config.json").read_text())
    config["settings"]["backbone"] = NAME
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return folder


def in_cache(backbone: str, cache: Path) -> None:
    """The hub's cache as it is once a model was fetched: blobs left away, links followed."""
    repository = cache / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(backbone, repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> Path:
    """An empty cache, and any try to reach the hub is an error."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_model_of_an_unknown_name_is_an_error_at_once(
    tiny_backbone: str, tmp_path: Path, cache: Path, kind: str
) -> None:
    run = stored(tiny_backbone, tmp_path / "run", kind)
    with pytest.raises(
        models.BackboneError, match=r"'somebody/tiny-bert': neither a folder nor .*hf download"
    ):
        if kind == "student":
            Scorer.load(run)
        else:  # its weights are its own, its tokenizer is not
            loaded: Any = models.load(run / "model")
            _ = loaded.tokenizer


def test_what_the_cache_holds_is_read_without_the_network(
    tiny_backbone: str, tmp_path: Path, cache: Path
) -> None:
    in_cache(tiny_backbone, cache)
    scorer: Any = Scorer.load(stored(tiny_backbone, tmp_path / "run"))
    own = models.DualEncoder(tiny_backbone, (8, 12), (0, 0), True, 0, "cosine")
    for name, weight in own.encoder.state_dict().items():
        assert torch.equal(scorer.model.encoder.state_dict()[name], weight), name
    assert scorer.model.settings["backbone"] == NAME
    assert (
        scorer.tokenizer("red tree")["input_ids"]
        == models.load_tokenizer(tiny_backbone)("red tree")["input_ids"]
    )


def test_a_name_that_a_person_gives_is_handed_to_the_hub() -> None:
    assert models.backbone.locate(NAME) == NAME
    with offline.only(), pytest.raises(models.BackboneError, match="asks no network"):
        models.backbone.locate("nobody/no-such-model-anywhere")
    assert models.backbone.locate(NAME) == NAME
