"""Facts about the files of a checkpoint: what is foreign, pickled, damaged or no cross-encoder is named and never loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_brought import checkpoint

from dipair_lib import models
from dipair_lib.models import BackboneError, bring


class TestForeignFiles:
    def test_a_backbone_has_no_head(self, tmp_path: Path, tiny_backbone: str) -> None:
        with pytest.raises(BackboneError, match=r"its weights lack classifier.*give it as `backbone`"):
            bring(tiny_backbone, 2)

    def test_pickled_weights_and_remote_code_are_refused(
        self, tmp_path: Path, tiny_backbone: str, pickled_backbone: Path
    ) -> None:
        with pytest.raises(BackboneError, match="pickled weights are never loaded"):
            bring(str(pickled_backbone), 2)
        folder = checkpoint("bert", 1, tmp_path / "ce", tiny_backbone)
        config = json.loads((folder / "config.json").read_text())
        foreign = {**config, "model_type": "evil", "auto_map": {"AutoModel": "evil.Model"}}
        (folder / "config.json").write_text(json.dumps(foreign))
        with pytest.raises(BackboneError, match="remote code"):
            bring(str(folder), 2)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"type": "evil.Transformer"}, "evil.Transformer.*nothing else is loaded"),
            ({"type": "sentence_transformers.cross_encoder.modules.LogitScore"}, "LogitScore"),
            ({"path": "../elsewhere"}, "never followed"),
            ({"path": ".."}, "never followed"),
        ],
    )
    def test_modules_of_other_kinds_or_places(
        self, change: dict[str, str], message: str, tmp_path: Path, tiny_backbone: str
    ) -> None:
        folder = checkpoint("bert", 1, tmp_path, tiny_backbone)
        module = {
            "idx": 0,
            "name": "0",
            "path": "",
            "type": "sentence_transformers.base.modules.transformer.Transformer",
        }
        (folder / "modules.json").write_text(json.dumps([{**module, **change}]))
        (folder / "sentence_bert_config.json").write_text('{"transformer_task": "sequence-classification"}')
        with pytest.raises(BackboneError, match=message):
            bring(str(folder), 2)

    def test_a_model_of_sentence_vectors_is_no_teacher(self, tmp_path: Path, tiny_backbone: str) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        SentenceTransformer(modules=[Transformer(tiny_backbone), Pooling(32)], device="cpu").save_pretrained(
            str(tmp_path)
        )
        with pytest.raises(BackboneError, match="no teacher of pairs"):
            bring(str(tmp_path), 2)

    def test_a_missing_folder(self, no_network: None) -> None:
        with pytest.raises(BackboneError, match="no such directory"):
            bring("./not/there", 2)

    def test_a_saved_one_with_another_tokenizer_is_refused(self, tmp_path: Path, tiny_backbone: str) -> None:
        model = bring(str(checkpoint("bert", 1, tmp_path / "ce", tiny_backbone)), 2)
        models.save(model, tmp_path / "saved")
        with (tmp_path / "saved" / "tokenizer" / "tokenizer.json").open("a") as file:
            file.write(" ")
        with pytest.raises(models.ModelError, match="expected sha256"):
            models.load(tmp_path / "saved")
