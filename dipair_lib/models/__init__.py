"""Models: what is computed once per text, what per pair (``pair_model``), and how they are written to disk
and read back (``stored``).
"""

from dipair_lib.models.backbone import load_backbone, load_tokenizer
from dipair_lib.models.baselines import Constant, TfIdf
from dipair_lib.models.bilstm import BiLSTM
from dipair_lib.models.brought import bring
from dipair_lib.models.cross_encoder import CrossEncoder
from dipair_lib.models.dipair import DualEncoder
from dipair_lib.models.folders import EMBEDDED, BackboneError
from dipair_lib.models.pair_model import BaseModel, Head, Kept, PairModel, Prepared
from dipair_lib.models.sequence_classifier import SequenceClassifier
from dipair_lib.models.stored import NETWORKS, SEAL, Model, ModelError, Network, load, read_config, save
from dipair_lib.models.tokens import Texts, Tokenizer, Tokens
from dipair_lib.models.words import WordTokenizer

__all__ = [
    "EMBEDDED", "NETWORKS", "SEAL", "BackboneError", "BaseModel", "BiLSTM", "Constant", "CrossEncoder", "DualEncoder", "Head", "Kept",
    "Model", "ModelError", "Network", "PairModel", "Prepared", "SequenceClassifier", "Texts", "TfIdf", "Tokenizer", "Tokens",
    "WordTokenizer", "bring", "load", "load_backbone", "load_tokenizer", "read_config", "save",
]  # fmt: skip
