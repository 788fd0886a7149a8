"""Training: the teacher, the losses, the loop, the two stages, and what is computed once and stored.

What is expensive is done once: each distinct text of a batch is encoded once, a frozen encoder's outputs and the teacher's logits are
stored.
"""

from dataclasses import replace

from .batches import epochs_of
from .best import Mean
from .checkpoint import Checkpoint, CheckpointError, State
from .cosine import cosine_start, draw_pairs, nearest, takes_cosine_start
from .device import device_of, encoder_dtype, in_dtype, placed_on, synchronize
from .inputs import Inputs
from .loop import fit, smooth
from .losses import hard_loss, loss_of
from .optimizers import Adadelta
from .outputs import Stored, hash_of, prepare_stored, stored_outputs, text_vectors
from .predict import combine_all, dtype_of, gather, predict, prepare_all, teacher_features
from .rows import (
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
from .settings import COSINE_PAIRS, LOSSES, Fitted, TrainConfig, budget_of, training_fields, training_name
from .stages import Looks, fit_head, fit_stages
from .start import RATES, STARTS, rates_of, start_encoder, start_head, start_residual
from .step import Step, outputs_in
from .targets import (
    load_teacher_logits,
    matched_features,
    require_model,
    save_teacher_logits,
    score_logits,
    synthetic_logits,
    taught_logits,
    teacher_file,
)
from .teacher import (
    PAIRS,
    PASSES,
    Trained,
    cosine_targets,
    dev_floor,
    floors,
    frozen_cosine,
    teacher_config,
    train_best,
)

__all__ = [
    "COSINE_PAIRS", "LOSSES", "PAIRS", "PASSES", "RATES", "STARTS", "Adadelta", "Checkpoint", "CheckpointError", "Data", "Fitted",
    "Inputs", "Looks", "Mean", "State", "Step", "Stored", "TeacherError", "TrainConfig", "Trained", "budget_of", "choose_read_lengths",
    "combine_all", "cosine_start", "cosine_targets", "dev_floor", "device_of", "draw_pairs", "dtype_of", "encoder_dtype",
    "epochs_of", "fit", "fit_head", "fit_stages", "floors", "frozen_cosine", "gather", "hard_loss", "hash_of", "in_dtype",
    "lengths_of", "load_teacher_logits", "loss_of", "matched_features", "nearest", "outputs_for", "outputs_in", "part_of",
    "placed_on", "predict", "prepare_all", "prepare_stored", "rates_of", "read_rows", "read_splits", "replace", "require_model",
    "save_teacher_logits", "score_logits", "smooth", "start_encoder", "start_head", "start_residual", "stored_outputs",
    "synchronize", "synthetic_logits", "takes_cosine_start", "taught_logits", "teacher_config", "teacher_features",
    "teacher_file", "text_vectors", "train_best", "training_fields", "training_name", "with_synthetic", "with_unlabelled",
]  # fmt: skip
