"""A student's graphs as ONNX, each checked against torch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipair_lib import models
from dipair_lib.models.backbone import quiet_transformers

TOLERANCE = 1e-4  # largest difference of a number between ONNX Runtime and torch
EXTRA = '--onnx needs the extra `peers`: pip install -c constraints.txt -e ".[peers]"'


class ExportError(ValueError):
    """A student that cannot be exported, or a folder that is not to be overwritten."""


# --- ONNX -------------------------------------------------------------------------------------------------------------------------


def require_onnx() -> None:
    """ImportError unless what ``--onnx`` needs is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(EXTRA) from error


class Encoder(torch.nn.Module):
    """What is computed once per text of a field: ids int64, mask bool [texts, tokens] -> tensors [texts,
    ...].
    """

    def __init__(self, model: models.PairModel, field: int) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> models.Prepared:
        return self.model.encode_and_prepare(ids, mask, self.field)


class Head(torch.nn.Module):
    """What is computed per pair: each field's tensors, one after the other, [pairs, ...] -> logits [pairs,
    outputs].
    """

    def __init__(self, model: models.PairModel, tensors: int) -> None:
        super().__init__()
        self.model, self.tensors = model, tensors

    def forward(self, *prepared: torch.Tensor) -> torch.Tensor:
        n = self.tensors
        return self.model.combine(*(prepared[i : i + n] for i in range(0, len(prepared), n)))


def save_graphs(model: models.PairModel, folder: Path) -> float:
    """Write a graph of each field's encoder and one of the head. Returns the largest difference between ONNX
    Runtime and torch.

    Raises:
        ExportError: torch cannot export the architecture, or the difference is over ``TOLERANCE``.
    """
    folder.mkdir()
    fields = range(len(model.read_lengths))
    model = model.eval()
    most = getattr(model.encoders[0].config, "max_position_embeddings", None)
    with torch.inference_mode():
        prepared = [Encoder(model, field)(*some_pieces(model, field, 3, seed=0)) for field in fields]
    texts, pairs = torch.export.Dim("texts"), torch.export.Dim("pairs")
    for field in fields:
        tokens = torch.export.Dim("tokens", min=shortest(model, field), max=most)
        graph = Encoder(model, field)
        save_graph(
            graph,
            some_pieces(model, field, 3, seed=0),
            ({0: texts, 1: tokens},) * 2,
            ["ids", "mask"],
            names_of(field, len(prepared[field])),
            folder / f"encoder-{field}.onnx",
        )
    flat = tuple(tensor for side in prepared for tensor in side)
    inputs = [name for field in fields for name in names_of(field, len(prepared[field]))]
    head = Head(model, len(prepared[0]))
    save_graph(head, flat, (tuple({0: pairs} for _ in flat),), inputs, ["logits"], folder / "head.onnx")
    error = largest_difference(model, folder)
    if error > TOLERANCE:
        raise ExportError(
            f"ONNX Runtime and torch differ by {error:.2g}, over {TOLERANCE:g}: export it without --onnx"
        )
    return error


def names_of(field: int, tensors: int) -> list[str]:
    """Names of what is cached of a field's text."""
    return [f"field{field}_{i}" for i in range(tensors)]


def shortest(model: models.PairModel, field: int) -> int:
    """Tokens a batch has at least: shorter texts are padded to the k outputs that are kept, mask False."""
    return max(2, model.settings["keep"][field])


def some_pieces(
    model: models.PairModel, field: int, texts: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids, mask [texts, tokens] of random word pieces: the first text as long as is read, the others of any
    length.
    """
    random = np.random.default_rng(seed)
    longest = model.read_lengths[field]
    lengths = np.array([longest, *random.integers(3, longest + 1, texts - 1)])
    ids = random.integers(0, model.encoders[0].config.vocab_size, (texts, longest))
    mask = np.arange(longest)[None, :] < lengths[:, None]
    return torch.from_numpy(np.where(mask, ids, 0)), torch.from_numpy(mask)


def save_graph(
    graph: torch.nn.Module, sample: Any, shapes: Any, inputs: list[str], outputs: list[str], path: Path
) -> None:
    """One module as ONNX, any number of rows."""
    noise = logging.getLogger("torch.onnx")
    level = noise.level
    try:
        noise.setLevel(logging.ERROR)
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names of axes that it merges
            program: Any = torch.onnx.export(
                graph.eval(), sample, dynamo=True, dynamic_shapes=shapes, input_names=inputs, output_names=outputs, verbose=False
            )  # fmt: skip
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"{path.name}: torch cannot export this architecture ({str(error).strip().splitlines()[0][:200]}): export it without --onnx"
        ) from error
    finally:
        noise.setLevel(level)
    del program.model_proto.graph.value_info[:]  # shapes that ONNX Runtime's own inference contradicts
    program.save(path)


def largest_difference(model: models.PairModel, folder: Path) -> float:
    """Between ONNX Runtime and torch, over what is cached of texts and over pairs' logits, at other numbers
    of texts than were exported.
    """
    import onnxruntime

    def runs(name: str) -> Any:
        return onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])

    encoders, head = (
        [runs(f"encoder-{field}.onnx") for field in range(len(model.read_lengths))],
        runs("head.onnx"),
    )
    differences = []
    for seed, texts in enumerate((1, 2, 7), start=1):
        expected: list[models.Prepared] = []
        fed: dict[str, np.ndarray] = {}
        for field, encoder in enumerate(encoders):
            ids, mask = some_pieces(model, field, texts, seed)
            with torch.inference_mode():
                expected.append(Encoder(model, field)(ids, mask))
            found = encoder.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})
            fed |= dict(zip(names_of(field, len(found)), found, strict=True))
            differences += [
                np.abs(e.float().numpy() - f).max() for e, f in zip(expected[-1], found, strict=True)
            ]
        with torch.inference_mode():
            logits = model.combine(*expected).numpy()
        asked = {one.name for one in head.get_inputs()}  # the exporter drops what the head does not read
        (found_logits,) = head.run(None, {name: value for name, value in fed.items() if name in asked})
        differences.append(np.abs(logits - found_logits).max())
    return float(max(differences))
