"""What the outputs of a checkpoint mean for a task: matched by the names of labels, never by their place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dipair_lib.models.checkpoint_files import ADVICE
from dipair_lib.models.folders import BackboneError


def readout_of(
    name: str, own: Sequence[str], classes: Sequence[str], given: Sequence[Any]
) -> tuple[list[list[int]], str]:
    """What of a checkpoint's logits makes which of the task's outputs, by the names of its labels.

    Two classes are one output, the log-odds of the second: the difference of two logits, or one logit as it
    is.

    Args:
        own: names of its outputs.
        classes: of the task, () for a score.
        given: classes of its outputs in their order, in place of names.

    Returns:
        The readout of ``SequenceClassifier``, and the order in words.
    """
    said = f"teacher {name!r}: its outputs are {', '.join(own)}"
    if not classes:
        if len(own) != 1 or given:
            raise BackboneError(
                f"{said}, but the task's labels are scores: expected a checkpoint with one output and no teacher_labels: {ADVICE}"
            )
        return [[1]], "its logit as it is"
    if len(own) not in ({1, 2} if len(classes) == 2 else {len(classes)}):
        raise BackboneError(
            f"{said}, but the task has {len(classes)} classes, {', '.join(classes[:20])}: {ADVICE}"
        )
    meant = [str(one) for one in given] or matched(own, classes)
    if len(meant) != len(own) or len(set(meant)) != len(own) or not set(meant) <= set(classes):
        asked = (
            "the class that its output speaks for"
            if len(own) == 1
            else "the class of each output, in its order"
        )
        raise BackboneError(
            f"{said}, the task's classes {', '.join(classes[:20])}"
            + (f", teacher_labels {', '.join(map(str, given))}" if given else "")
            + f": which is which cannot be told by name: give teacher_labels = [{asked}]"
        )
    told = ", ".join(f"{label} is {one}" for label, one in zip(own, meant, strict=True))
    if len(own) == 1:
        return [[1 if meant[0] == classes[1] else -1]], f"its logit is the log-odds of {meant[0]}"
    place = [meant.index(one) for one in classes]
    if len(classes) == 2:
        return [[1 if i == place[1] else -1 for i in range(2)]], told
    return [[int(i == at) for i in range(len(own))] for at in place], told


def matched(own: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The class of each output by its name; LABEL_2 is class 2. One output speaks for the larger of two
    numbers. [] where names differ.
    """
    if len(own) == 1 and all(re.fullmatch(r"-?\d+", one) for one in classes):
        return [classes[-1]]
    by_name = {plain(one): one for one in classes}
    if all(one.isdecimal() for one in classes):
        by_name |= {plain(f"LABEL_{one}"): one for one in classes}
    found = [by_name.get(plain(one), "") for one in own]
    return found if all(found) else []


def plain(name: str) -> str:
    """A label's name without case and signs: "Not-Entailment" and "not_entailment" are one."""
    return re.sub(r"[\W_]+", " ", name.lower()).strip()
