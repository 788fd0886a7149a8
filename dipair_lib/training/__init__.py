"""Training: the teacher, the losses, the loop, the two stages, and what is computed once and stored.

What is expensive is done once: each distinct text of a batch is encoded once, a frozen encoder's outputs and
the teacher's logits are stored.
"""

from dataclasses import replace

from dipair_lib.training.batches import epochs_of
from dipair_lib.training.checkpoint import Checkpoint, CheckpointError, State
from dipair_lib.training.cosine import cosine_start, draw_pairs, nearest, takes_cosine_start
from dipair_lib.training.loop import fit, smooth
from dipair_lib.training.losses import hard_loss, loss_of
from dipair_lib.training.optimizers import Adadelta
from dipair_lib.training.rows import (
    Data,
    TeacherError,
    choose_read_lengths,
    lengths_of,
    outputs_for,
    part_of,
    read_rows,
    read_splits,
    with_synthetic,
    with_unlabelled,
)
from dipair_lib.training.settings import (
    COSINE_PAIRS,
    LOSSES,
    Fitted,
    TrainConfig,
    budget_of,
    fitted_table,
    training_fields,
    training_name,
)
from dipair_lib.training.stages import Looks, fit_head, fit_stages
from dipair_lib.training.start import RATES, STARTS, rates_of, start_encoder, start_head, start_residual
from dipair_lib.training.step import Step, outputs_in
from dipair_lib.training.targets import (
    Taught,
    load_teacher_logits,
    require_model,
    save_teacher_logits,
    score_logits,
    synthetic_logits,
    taught_by,
    taught_logits,
    teacher_file,
)
from dipair_lib.training.teacher import (
    PAIRS,
    PASSES,
    Trained,
    baselines,
    cosine_targets,
    dev_floor,
    frozen_cosine,
    teacher_config,
    train_best,
)

__all__ = [
    "COSINE_PAIRS",
    "LOSSES",
    "PAIRS",
    "PASSES",
    "RATES",
    "STARTS",
    "Adadelta",
    "Checkpoint",
    "CheckpointError",
    "Data",
    "Fitted",
    "Looks",
    "State",
    "Step",
    "Taught",
    "TeacherError",
    "TrainConfig",
    "Trained",
    "baselines",
    "budget_of",
    "choose_read_lengths",
    "cosine_start",
    "cosine_targets",
    "dev_floor",
    "draw_pairs",
    "epochs_of",
    "fit",
    "fit_head",
    "fit_stages",
    "fitted_table",
    "frozen_cosine",
    "hard_loss",
    "lengths_of",
    "load_teacher_logits",
    "loss_of",
    "nearest",
    "outputs_for",
    "outputs_in",
    "part_of",
    "rates_of",
    "read_rows",
    "read_splits",
    "replace",
    "require_model",
    "save_teacher_logits",
    "score_logits",
    "smooth",
    "start_encoder",
    "start_head",
    "start_residual",
    "synthetic_logits",
    "takes_cosine_start",
    "taught_by",
    "taught_logits",
    "teacher_config",
    "teacher_file",
    "train_best",
    "training_fields",
    "training_name",
    "with_synthetic",
    "with_unlabelled",
]  # fmt: skip
