"""A cross-encoder that somebody else trained, as a teacher of a task: loaded, and asked how it joins, cuts
and scores texts.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tokenizers import normalizers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from dipair_lib.models.backbone import (
    Missing,
    load_backbone,
    load_config,
    load_tokenizer,
    load_whole,
    positions_of,
)
from dipair_lib.models.checkpoint_files import ADVICE, Checkpoint, folder_of, read_checkpoint
from dipair_lib.models.folders import BackboneError
from dipair_lib.models.readout import readout_of
from dipair_lib.models.sequence_classifier import WHOLE, Pooled, SequenceClassifier, with_float32_head
from dipair_lib.models.tokens import read


def bring(
    name: str,
    fields: int,
    classes: Sequence[str] = (),
    *,
    labels: Sequence[Any] = (),
    read_lengths: Sequence[int] = (),
) -> SequenceClassifier:
    """A sequence-classification checkpoint as a teacher of a task. Its logits are those of its own library,
    the activation left away.

    Args:
        name: a folder, or a hub name.
        fields: texts per row, 1 or 2.
        classes: the task's, () for a score.
        labels: the class of each of its outputs, in its order; () reads them from its config. Of one output:
            the class it speaks for.
        read_lengths: word pieces read of each field; () reads as its own library does, up to its own maximum
            for the joined input.

    Returns:
        The model in evaluation mode; ``notes`` says how its outputs were taken.

    Raises:
        BackboneError: files are missing, foreign or pickled, ask for remote code, or its outputs do not fit
            the task.
    """
    if not 1 <= fields <= 2:
        raise BackboneError(
            f"teacher {name!r}: a checkpoint with its own head reads one or two texts, but the task has {fields} fields: {ADVICE}"
        )
    found = read_checkpoint(folder_of(name))
    encoder = load_pooled(found) if found.pooling else load_classifier(found.transformer)
    config = encoder.config
    own = labels_of(encoder, found)
    readout, notes = readout_of(name, own, classes, labels)
    tokenizer = load_tokenizer(str(found.transformer))
    if found.lower:
        before = tokenizer.backend_tokenizer.normalizer
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), *([before] if before else [])]
        )
    model = SequenceClassifier(
        name,
        list(read_lengths) or [WHOLE] * fields,
        len(readout),
        readout,
        longest(encoder, tokenizer, found),
        joining_of(tokenizer, fields),
        truncate_left=tokenizer.truncation_side == "left",
        token_types=reads_types(encoder, tokenizer),
        pad=padding_of(name, encoder, tokenizer),
        prompt=found.prompt,
        pooling=found.pooling,
        dense=found.dense,
        encoder=encoder,
    )
    model.own_tokenizer = tokenizer
    if not classes and found.activation not in {"", "Identity"}:
        notes += f"; raw logits, without its {found.activation}: its Pearson correlation is of those"
    if classes and len(own) == 1 and getattr(config, "problem_type", None) == "regression":
        notes += "; trained as a regression: accuracy and F1 cut its score at 0"
    model.notes = "; ".join(filter(None, [notes, getattr(encoder, "notes", "")]))
    check_alone(model.eval(), fields)
    return model


@torch.no_grad()
def check_alone(model: SequenceClassifier, fields: int) -> None:
    """Raise unless a short row gets in a batch, beside a longer one, the logits that it gets alone."""
    rows = pd.DataFrame([["one"] * fields, ["more than two or three words"] * fields])
    texts = read(model.tokenizer, rows, list(rows), model.read_lengths)  # type: ignore[arg-type]
    try:
        together, alone = (model(*model.batch(texts, np.arange(n)))[0] for n in (2, 1))
    except Exception as error:  # a head can fail at any of its lines
        raise BackboneError(
            f"{model.settings['backbone']}: its head cannot be asked ({type(error).__name__}: {error!s:.200}): {ADVICE}"
        ) from error
    if not bool((together - alone).norm() <= 1e-3 * (1 + alone.norm())):
        raise BackboneError(
            f"{model.settings['backbone']}: gives a row other logits in a batch than alone, since padding reaches its texts: {ADVICE}"
        )


def load_classifier(folder: Path) -> Any:
    """A transformer with its head in float32, no dropout.

    Raises:
        BackboneError: the head's weights are not among the checkpoint's: it is a backbone.
    """
    config = load_config(str(folder.resolve()))
    if getattr(config, "problem_type", None) == "multi_label_classification" and config.num_labels > 1:
        raise BackboneError(f"{folder}: its labels do not exclude each other, those of a task do: {ADVICE}")
    try:
        model, notes = load_whole(AutoModelForSequenceClassification, str(folder.resolve()), config)
    except Missing as error:
        if any(key.startswith(error.body) for key in error.keys):
            raise
        raise BackboneError(
            f"{folder}: expected a checkpoint with a head for classification, but its weights lack {', '.join(error.keys[:3])}: it is a "
            "backbone: give it as `backbone`, and a teacher is fine-tuned from it"
        ) from error
    model.notes = notes
    return with_float32_head(model)


def load_pooled(found: Checkpoint) -> Any:
    """A transformer without a head, with the pooling and dense layers of its modules."""
    model = Pooled(load_backbone(str(found.transformer.resolve())), found.pooling, found.dense)
    layers = [layer for layer in model.dense if isinstance(layer, torch.nn.Linear)]
    for layer, weights in zip(layers, found.weights, strict=True):
        try:
            layer.load_state_dict(weights)
        except RuntimeError as error:
            raise BackboneError(
                f"{found.transformer}: a Dense's weights do not fit its config ({error})"
            ) from error
    return model


def longest(encoder: Any, tokenizer: PreTrainedTokenizerBase, found: Checkpoint) -> int:
    """Word pieces of a joined input: as sentence-transformers has it (its own setting, else the tokenizer's,
    at most the config's ``max_position_embeddings``), and no more than there are positions (RoBERTa's table
    begins behind its padding).
    """
    if found.max_length:
        return positions_of(encoder, found.max_length)
    return int(min(tokenizer.model_max_length, positions_of(encoder) or WHOLE, WHOLE))


def joining_of(tokenizer: PreTrainedTokenizerBase, fields: int) -> dict[str, Any]:
    """What the tokenizer puts around the fields, found by encoding.

    Returns:
        ``before``, ``between``, ``after``: lists of [id, token type]; ``types``: the token type of each
        field's pieces.
    """
    found = []
    for probe in (("a", "b"), ("a b", "c")):
        encoded = tokenizer(*probe[:fields], return_token_type_ids=True)
        pieces = list(zip(encoded["input_ids"], encoded["token_type_ids"], strict=True))
        places = encoded.sequence_ids(0)
        inside = [[i for i, place in enumerate(places) if place == number] for number in range(fields)]
        bare = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in probe[:fields]]
        same = [[pieces[i][0] for i in places] for places in inside] == bare
        ends = [(one[0], one[-1] + 1) for one in inside if one]
        types = [{pieces[i][1] for i in one} for one in inside]
        if not same or len(ends) < fields or any(len(one) != 1 for one in types):
            raise BackboneError(
                f"{type(tokenizer).__name__}: expected a pair's word pieces to be those of its texts, one after the other, but it joins "
                f"them otherwise: {ADVICE}"
            )
        between = pieces[ends[0][1] : ends[1][0]] if fields == 2 else []
        parts = {"before": pieces[: ends[0][0]], "between": between, "after": pieces[ends[-1][1] :]}
        found.append(
            {**{k: [list(p) for p in v] for k, v in parts.items()}, "types": [min(one) for one in types]}
        )
    if found[0] != found[1]:
        raise BackboneError(
            f"{type(tokenizer).__name__}: joins texts differently from pair to pair: {ADVICE}"
        )
    return found[0]


def reads_types(encoder: Any, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the transformer is told which text a piece is of: the tokenizer gives it, and the transformer
    takes it.
    """
    transformer = encoder.transformer if isinstance(encoder, Pooled) else encoder
    takes = "token_type_ids" in inspect.signature(transformer.forward).parameters
    return takes and "token_type_ids" in tokenizer.model_input_names


def padding_of(name: str, encoder: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of padding. A decoder finds the end of a text by it, so it must have one."""
    pad = getattr(encoder.config, "pad_token_id", None)
    if pad is None and hasattr(encoder, "score"):
        raise BackboneError(
            f"teacher {name!r}: its config.json has no pad_token_id, by which the end of a text is found: set it"
        )
    pad = tokenizer.pad_token_id if pad is None else pad
    return int(pad or 0)


def labels_of(encoder: Any, found: Checkpoint) -> list[str]:
    """The names of a checkpoint's outputs."""
    names: dict[Any, str] = getattr(encoder.config, "id2label", None) or {}
    outputs = found.dense[-1]["out"] if found.dense else encoder.config.num_labels
    if found.dense and len(names) != outputs:
        names = {}
    return [str(names.get(i, f"LABEL_{i}")) for i in range(outputs)]
