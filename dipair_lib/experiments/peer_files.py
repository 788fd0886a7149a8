"""What the other libraries read, made once from the teacher and the backbone."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA

from dipair_lib import models
from dipair_lib.evaluation import results
from dipair_lib.models import offline
from dipair_lib.models.backbone import load_backbone, load_tokenizer, quiet_transformers
from dipair_lib.system import disk, progress

CALIBRATED = 128  # training pairs that int8 is calibrated on


class Setting(NamedTuple):
    """Where everything is: the results folder, the run of the teacher, a folder for what is made of it,
    threads.
    """

    out: str
    teacher: str
    made: str
    threads: int


def teacher_of(setting: Setting) -> models.CrossEncoder:
    """The teacher, float32."""
    model = models.load(results.row_folder(setting.out, setting.teacher) / "model")
    assert model.per_pair
    return model


INPUTS = ("input_ids", "attention_mask", "token_type_ids")


# --- what they read ---------------------------------------------------------------------------------------------------------------


def make_all(setting: Setting, texts: Sequence[Sequence[str]]) -> None:
    """Write once what the libraries read: the encoder in their layout, the teacher's graph, that in int8, the
    static vectors.

    Args:
        texts: both sides of some training pairs, on which int8 is calibrated.
    """
    steps: dict[str, Callable[[Path], None]] = {
        "encoder": lambda path: save_encoder(setting, path),
        "teacher.float32.onnx": lambda path: save_graph(setting, path, texts),
        "teacher.int8.onnx": lambda path: quantize_graph(setting, path),
        "teacher.openvino.int8.xml": lambda path: calibrate_graph(setting, path, texts),
        "static": lambda path: save_static(setting, path),
    }
    folder = Path(setting.made)
    noted = folder / "teacher.txt"
    made_of = f"{setting.teacher}, calibrated on training pairs"
    if folder.exists() and (not noted.exists() or noted.read_text() != made_of):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    disk.write_atomic(noted, made_of.encode())
    for stray in folder.glob("search-*"):
        shutil.rmtree(stray)
    for name, write in progress.track(list(steps.items()), "preparing the libraries' files"):
        if not (folder / name).exists():
            with tempfile.TemporaryDirectory(dir=folder) as temporary, quiet_transformers():
                write(Path(temporary) / name)
                for made in Path(temporary).iterdir():
                    os.replace(made, folder / made.name)


def save_encoder(setting: Setting, path: Path) -> None:
    """The teacher's encoder and tokenizer in the layout of Hugging Face."""
    teacher: Any = teacher_of(setting)
    teacher.encoder.save_pretrained(path)
    teacher.tokenizer.save_pretrained(path)


class Graph(torch.nn.Module):
    """The teacher with the inputs that exported cross-encoders have."""

    def __init__(self, teacher: models.CrossEncoder) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        logits: torch.Tensor = self.teacher(input_ids, attention_mask.bool(), token_type_ids)
        return logits


def save_graph(setting: Setting, path: Path, texts: Sequence[Sequence[str]]) -> None:
    """The teacher as ONNX, any number of pairs of any length."""
    teacher = teacher_of(setting)
    tokenizer: Any = teacher.tokenizer
    sample = tokenizer(
        *(list(side[:3]) for side in texts), padding=True, return_token_type_ids=True, return_tensors="pt"
    )
    free = {
        0: torch.export.Dim("pairs"),
        1: torch.export.Dim("tokens", max=teacher.encoder.config.max_position_embeddings),
    }
    program: Any = torch.onnx.export(
        Graph(teacher).eval(), tuple(sample[name] for name in INPUTS), dynamo=True, dynamic_shapes=(free,) * 3, input_names=list(INPUTS),
        output_names=["logits"], verbose=False,
    )  # fmt: skip
    del program.model_proto.graph.value_info[:]
    program.save(path)


def quantize_graph(setting: Setting, path: Path) -> None:
    """Weights in int8, activations quantised as they come: ONNX Runtime's way without calibration."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = path.with_name("plain.onnx")
    model = onnx.load(Path(setting.made) / "teacher.float32.onnx")
    del model.graph.value_info[:]  # shapes that its own inference contradicts
    onnx.save(model, plain)
    quantize_dynamic(plain, path, weight_type=QuantType.QInt8, per_channel=True)
    plain.unlink()


def calibrate_graph(
    setting: Setting, path: Path, texts: Sequence[Sequence[str]], n: int = CALIBRATED
) -> None:
    """Weights and activations in int8, calibrated on some training pairs (without labels): OpenVINO's way."""
    import nncf
    import openvino

    tokenizer: Any = teacher_of(setting).tokenizer

    def batch(i: int) -> dict[str, np.ndarray]:
        encoded = tokenizer([texts[0][i]], [texts[1][i]], return_token_type_ids=True, return_tensors="np")
        return {name: encoded[name] for name in INPUTS}

    model = openvino.Core().read_model(Path(setting.made) / "teacher.float32.onnx")
    chosen = np.linspace(0, len(texts[0]) - 1, min(n, len(texts[0]))).astype(int).tolist()
    made = nncf.quantize(
        model, nncf.Dataset(chosen, batch), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(chosen)
    )
    openvino.save_model(made, path, compress_to_fp16=False)


@offline.only()
def save_static(setting: Setting, path: Path, width: int = 256, rare: float = 1e-4) -> None:
    """A vector for each word piece, model2vec's way: the mean of the backbone's outputs for the piece alone,
    its first principal components, rare pieces weighing more (Arora et al. 2017, with frequencies by Zipf's
    law from the order of the vocabulary).
    """
    from model2vec import StaticModel

    name = teacher_of(setting).settings["backbone"]
    backbone, tokenizer = load_backbone(name).eval(), load_tokenizer(name)
    pieces = torch.arange(len(tokenizer))
    begin, end = (
        torch.full_like(pieces, int(one)) for one in (tokenizer.cls_token_id, tokenizer.sep_token_id)
    )
    inputs = torch.stack([begin, pieces, end], dim=1)
    with torch.inference_mode():
        chunks = [
            backbone(input_ids=some).last_hidden_state.mean(1)
            for some in progress.track(inputs.split(512), "static vectors")
        ]
    vectors = torch.cat(chunks).numpy()
    vectors = PCA(min(width, *vectors.shape), random_state=0).fit_transform(vectors)
    frequency = 1 / np.arange(2, len(vectors) + 2)
    vectors *= (rare / (rare + frequency / frequency.sum()))[:, None]
    StaticModel(vectors.astype(np.float32), tokenizer.backend_tokenizer, normalize=True).save_pretrained(path)
