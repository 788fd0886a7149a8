"""Training: the teacher, the losses, the loop, the two stages, and what is computed once and stored.

What is expensive is done once: each distinct text of a batch is encoded once, a frozen encoder's outputs and the teacher's logits are
stored.
"""

from dataclasses import replace

from .batches import epochs_of
from .checkpoint import Checkpoint, CheckpointError, State
from .device import device_of, encoder_dtype, in_dtype, placed_on, synchronize
from .loop import Mean, fit, outputs_in, smooth
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
from .settings import LOSSES, Fitted, TrainConfig, training_fields, training_name
from .stages import STARTS, fit_head, fit_stages, start_encoder, start_residual
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
from .teacher import choose_learning_rate, cosine_targets, floors, frozen_cosine

__all__ = [
    "LOSSES", "STARTS", "Adadelta", "Checkpoint", "CheckpointError", "Data", "Fitted", "Mean", "State", "Stored", "TeacherError",
    "TrainConfig", "choose_learning_rate", "choose_read_lengths", "combine_all", "cosine_targets", "device_of", "dtype_of",
    "encoder_dtype", "epochs_of", "fit", "fit_head", "fit_stages", "floors", "frozen_cosine", "gather", "hard_loss", "hash_of",
    "in_dtype", "lengths_of", "load_teacher_logits", "loss_of", "matched_features", "outputs_for", "outputs_in", "part_of",
    "placed_on", "predict", "prepare_all", "prepare_stored", "read_rows", "read_splits", "replace", "require_model", "save_teacher_logits",
    "score_logits", "smooth", "start_encoder", "start_residual", "stored_outputs", "synchronize", "synthetic_logits", "taught_logits",
    "teacher_features", "teacher_file", "text_vectors", "training_fields", "training_name", "with_synthetic", "with_unlabelled",
]  # fmt: skip
