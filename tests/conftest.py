"""A backbone of some thousand weights in the Hugging Face layout, and a small task, so that tests need no large model and no network."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault(
    "TRITON_INTERPRET", "1"
)  # kernels run on the CPU; read once, when triton is first imported

WORDS = (
    "the a of to and in is red green blue car house tree river stone runs sleeps grows shines old new fast slow warm cold"
).split()


def save_backbone(folder: Path) -> str:
    """Write a BERT with 2 layers of 32, a whole-word tokenizer, random weights from a fixed seed. Returns its directory."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of the tiny backbone."""
    return save_backbone(tmp_path_factory.mktemp("tiny-bert"))


def sentences(n: int, seed: int, low: int = 2, high: int = 9) -> list[str]:
    """n sentences of random words, 2 to 8 long."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(low, high))) for _ in range(n)]


@pytest.fixture(scope="session")
def pairs() -> pd.DataFrame:
    """120 pairs in 40 groups."""
    return make_pairs()


def make_pairs() -> pd.DataFrame:
    """120 pairs in 40 groups: label 1 where the second text holds the first one's words."""
    random = np.random.default_rng(1)
    rows = []
    for group, query in enumerate(sentences(40, seed=2)):
        other = sentences(2, seed=100 + group)
        mixed = query.split() + other[0].split()[:2]
        rows.append((query, " ".join(random.permutation(mixed)), 1, group))
        rows += [(query, text, 0, group) for text in other]
    return pd.DataFrame(rows, columns=["query", "passage", "label", "group"])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``device`` runs on the CPU, on one that is not there (``stand_in``), and on a CUDA GPU if there is one."""
    if "device" in metafunc.fixturenames:
        import torch

        gpu = ["cuda"] if torch.cuda.is_available() else []
        metafunc.parametrize("device", ["cpu", "stand-in", *gpu], indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A ``torch.device`` that models can be on."""
    import torch
    from stand_in import stand_in

    if request.param != "stand-in":
        yield torch.device(request.param)
        return
    with torch.no_grad(), stand_in() as there:
        yield there


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process opens no port and reaches no one."""

    def refuse(self: socket.socket, *address: object) -> None:
        raise AssertionError(f"a socket of the project: {address}")

    for name in ("bind", "listen", "connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)


@pytest.fixture
def pickled_backbone(tmp_path: Path) -> Path:
    """A directory that holds a config and pickled weights only."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    return tmp_path
