"""Models at work: the device they are on, padded batches, outputs computed once and stored, logits."""

from dipair_lib.inference.device import device_of, encoder_dtype, in_dtype, placed_on, synchronize
from dipair_lib.inference.inputs import Inputs
from dipair_lib.inference.outputs import Stored, hash_of, prepare_stored, stored_outputs, text_vectors
from dipair_lib.inference.predict import combine_all, dtype_of, gather, predict, prepare_all

__all__ = [
    "Inputs", "Stored", "combine_all", "device_of", "dtype_of", "encoder_dtype", "gather", "hash_of", "in_dtype", "placed_on", "predict",
    "prepare_all", "prepare_stored", "stored_outputs", "synchronize", "text_vectors",
]  # fmt: skip
