# mypy: disable-error-code="arg-type,misc,operator,union-attr"
"""Facts about the models: textbook forms, padding and batches change nothing, files are checked before they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dipair_lib import models
from dipair_lib.models import folders, heads
from dipair_lib.models.bilstm import Recurrence
from dipair_lib.models.heads import Kept
from dipair_lib.models.tokens import Texts, Tokens, in_batches, length_sorted, read

FIELDS = ["query", "passage"]
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def texts(tiny_backbone: str, pairs: pd.DataFrame) -> Texts:
    return read(models.load_tokenizer(tiny_backbone), pairs, FIELDS, [8, 12])


def students(backbone: str) -> dict[str, Any]:
    """One of each kind behind the seam."""
    torch.manual_seed(3)
    common: dict[str, Any] = {"backbone": backbone, "read_lengths": (8, 12)}
    made = {
        "DE-Cos": models.DualEncoder(**common, keep=(0, 0), pooled=True, projection=0, head="cosine"),
        "DE-FFNN": models.DualEncoder(**common, keep=(0, 0), pooled=True, projection=0, hidden=(16, 8)),
        "FFNN": models.DualEncoder(**common, keep=(2, 5), projection=8, hidden=(16, 8)),
        "FFNN + cosine": models.DualEncoder(
            **common, keep=(3, 3), pooled=True, projection=8, residual="cosine"
        ),
        "FFNN + maxsim": models.DualEncoder(**common, keep=(3, 4), projection=8, residual="maxsim"),
        "FFNN, two widths, two encoders": models.DualEncoder(
            **common, keep=(2, 5), projection=(4, 8), shared=False
        ),
        "TSF": models.DualEncoder(**common, keep=(4, 6), projection=16, head="transformer", head_layers=2),
        "TSF + cosine": models.DualEncoder(
            **common, keep=(4, 6), projection=16, head="transformer", pooled=True, residual="cosine"
        ),
        "MaxSim": models.DualEncoder(**common, keep=(4, 6), projection=16, head="maxsim"),
        "cosine + MaxSim": models.DualEncoder(
            **common, keep=(4, 6), projection=16, pooled=True, head="cosine+maxsim"
        ),
        "FFNN + cosine + maxsim": models.DualEncoder(
            **common, keep=(3, 4), projection=8, pooled=True, residual="cosine+maxsim"
        ),
        **{
            select: models.DualEncoder(**common, keep=(3, 6), projection=8, select=select)
            for select in ("even", "norm", "attention", "learned")
        },
        "BiLSTM": models.BiLSTM([f"w{i}" for i in range(30)], (8, 12), width=12, hidden=10, fc=6),
    }
    for norm in made["norm"].encoder.modules():  # fresh layer norms give every token the same length
        if isinstance(norm, nn.LayerNorm):
            nn.init.normal_(norm.weight, 1.0, 0.3)
    for model in made.values():
        for p in model.head.parameters():  # away from zeros and ones, so that no term can hide
            nn.init.normal_(p, std=0.3)
    return {name: model.eval() for name, model in made.items()}


KINDS = [
    "DE-Cos", "DE-FFNN", "FFNN", "FFNN + cosine", "FFNN + maxsim", "FFNN, two widths, two encoders", "TSF", "TSF + cosine", "MaxSim",
    "cosine + MaxSim", "FFNN + cosine + maxsim",
    "even", "norm", "attention", "learned", "BiLSTM",
]  # fmt: skip


@torch.no_grad()
def aligned_logits(model: Any, texts: Texts, rows: np.ndarray, length: int = 0) -> torch.Tensor:
    """Logits of some rows in one batch, padded to ``length``."""
    kept = [model.encode(*t.take(texts.index[rows, f], length), f) for f, t in enumerate(texts.tokens)]
    return model.score(*kept)


class TestPaddingAndBatches:
    @pytest.mark.parametrize("kind", KINDS)
    def test_padding_changes_nothing(self, kind: str, tiny_backbone: str, texts: Texts) -> None:
        model, rows = students(tiny_backbone)[kind], np.arange(12)
        torch.testing.assert_close(
            aligned_logits(model, texts, rows), aligned_logits(model, texts, rows, 30), **CLOSE
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_batch_scores_as_its_rows_alone(self, kind: str, tiny_backbone: str, texts: Texts) -> None:
        model, rows = students(tiny_backbone)[kind], np.arange(12)
        alone = torch.cat([aligned_logits(model, texts, rows[i : i + 1]) for i in range(12)])
        scale = float(
            alone.abs().max().clamp(min=1)
        )  # an untrained head's own: a cosine with a large one rounds by more
        torch.testing.assert_close(aligned_logits(model, texts, rows) / scale, alone / scale, **CLOSE)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_tile_scores_as_its_pairs(self, kind: str, tiny_backbone: str, texts: Texts) -> None:
        """[m, 1, ...] with [1, n, ...] broadcasts to m x n pairs."""
        model = students(tiny_backbone)[kind]
        with torch.no_grad():
            left, right = (
                model.prepare(model.encode(*t.take(np.arange(n)), f), f)
                for f, (t, n) in enumerate(zip(texts.tokens, (3, 5), strict=True))
            )
            tile = model.combine(tuple(t[:, None] for t in left), tuple(t[None, :] for t in right))
            pairs = model.combine(
                tuple(t.repeat_interleave(5, 0) for t in left),
                tuple(t.repeat(3, *[1] * (t.dim() - 1)) for t in right),
            )
        assert tile.shape == (3, 5, 1)
        torch.testing.assert_close(tile.flatten(0, 1), pairs, **CLOSE)

    def test_cross_encoder_ignores_padding_and_batch(self, tiny_backbone: str, texts: Texts) -> None:
        model = models.CrossEncoder(tiny_backbone, (8, 12)).eval()
        with torch.no_grad():
            together = model(*model.batch(texts, np.arange(10)))
            alone = torch.cat([model(*model.batch(texts, np.array([i]))) for i in range(10)])
        torch.testing.assert_close(together, alone, **CLOSE)

    def test_joined_input_is_what_the_tokenizer_makes_of_a_pair(
        self, tiny_backbone: str, pairs: pd.DataFrame
    ) -> None:
        tokenizer = models.load_tokenizer(tiny_backbone)
        whole = read(tokenizer, pairs, FIELDS, [30, 30])
        model = models.CrossEncoder(tiny_backbone, (30, 30))
        ids, mask, types = model.batch(whole, np.arange(len(pairs)))
        expected = tokenizer(pairs["query"].tolist(), pairs["passage"].tolist(), return_token_type_ids=True)
        for i in range(len(pairs)):
            assert ids[i][mask[i]].tolist() == expected["input_ids"][i]
            assert types[i][mask[i]].tolist() == expected["token_type_ids"][i]


def kept_of(lengths: list[int], k: int, width: int, pooled: int = 0, seed: int = 0) -> Kept:
    """Random kept tokens of texts with these lengths; rows past a text's length are zero, as an encoder leaves them."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(k)[None] < torch.tensor(lengths)[:, None]
    vectors = torch.randn(len(lengths), k, width, generator=generator) * mask[..., None]
    return Kept(vectors, mask, torch.randn(len(lengths), pooled, generator=generator) if pooled else None)


class TestThreeFields:
    """Name, summary, body: every head but those that compare two texts, under padding, batch size and as tiles."""

    HEADS: ClassVar[dict[str, dict[str, Any]]] = {
        "ffnn": {"keep": (2, 3, 5)},
        "ffnn pooled": {"keep": (0, 0, 0), "pooled": True, "projection": 0},
        "transformer": {"keep": (2, 3, 5), "head": "transformer"},
        "transformer pooled": {"keep": (2, 3, 5), "head": "transformer", "pooled": True},
    }

    @pytest.fixture
    def triples(self, tiny_backbone: str, pairs: pd.DataFrame) -> Texts:
        frame = pairs.assign(name=pairs["query"].str.split().str[0])
        return read(models.load_tokenizer(tiny_backbone), frame, ["name", *FIELDS], [4, 8, 12])

    @pytest.mark.parametrize("kind", HEADS)
    def test_padding_batches_and_tiles_change_nothing(
        self, kind: str, tiny_backbone: str, triples: Texts
    ) -> None:
        torch.manual_seed(1)
        settings = {"projection": 8, **self.HEADS[kind]}
        model = models.DualEncoder(tiny_backbone, (4, 8, 12), **settings).eval()
        rows = np.arange(12)
        expected = aligned_logits(model, triples, rows)
        torch.testing.assert_close(aligned_logits(model, triples, rows, 30), expected, **CLOSE)
        alone = torch.cat([aligned_logits(model, triples, rows[i : i + 1]) for i in rows])
        torch.testing.assert_close(alone, expected, **CLOSE)
        with torch.no_grad():
            prepared = [
                model.prepare(model.encode(*t.take(np.arange(n)), f), f)
                for f, (t, n) in enumerate(zip(triples.tokens, (2, 3, 4), strict=True))
            ]
            shapes = ((2, 1, 1), (1, 3, 1), (1, 1, 4))
            tile = model.combine(
                *(tuple(t.view(*s, *t.shape[1:]) for t in p) for p, s in zip(prepared, shapes, strict=True))
            )
            i, j, k = (
                x.flatten() for x in torch.meshgrid(*(torch.arange(n) for n in (2, 3, 4)), indexing="ij")
            )
            tuples = model.combine(
                *(tuple(t[at] for t in p) for p, at in zip(prepared, (i, j, k), strict=True))
            )
        assert tile.shape == (2, 3, 4, 1)
        torch.testing.assert_close(tile.flatten(0, 2), tuples, **CLOSE)


class TestSelection:
    """Which outputs are kept, on numbers worked by hand: one field of 6 tokens, of which text 0 has all and text 1 has two."""

    def kept(self, select: str, tiny_backbone: str, k: int = 3) -> Kept:
        model = models.DualEncoder(tiny_backbone, (8, 8), (k, k), projection=0, select=select)
        size = torch.tensor([1.0, 5.0, 2.0, 9.0, 3.0, 7.0])
        hidden = size[None, :, None].expand(2, 6, 32).clone()
        mask = torch.arange(6)[None] < torch.tensor([6, 2])[:, None]
        received = torch.tensor([6.0, 1.0, 5.0, 2.0, 4.0, 3.0]).expand(2, 6)
        return model.cut(models.dipair.Outputs(hidden * mask[..., None], mask, received), 0)

    @pytest.mark.parametrize(
        ("select", "expected"),
        [("first", [1, 5, 2]), ("even", [1, 2, 7]), ("norm", [5, 9, 7]), ("attention", [1, 2, 3])],
    )
    def test_which_outputs_are_kept(self, select: str, expected: list[float], tiny_backbone: str) -> None:
        found = self.kept(select, tiny_backbone)
        assert found.vectors[0, :, 0].tolist() == expected
        assert found.vectors[1, :, 0].tolist() == [1, 5, 0], "a text shorter than k keeps all of its tokens"
        assert found.mask.tolist() == [[True] * 3, [True, True, False]]

    def test_k_beyond_the_batch_is_padding(self, tiny_backbone: str) -> None:
        found = self.kept("norm", tiny_backbone, k=8)
        assert found.vectors[0, :, 0].tolist() == [1, 5, 2, 9, 3, 7, 0, 0]
        assert found.mask.sum(1).tolist() == [6, 2]

    def test_learned_queries_attend_to_real_tokens_only(self, tiny_backbone: str) -> None:
        torch.manual_seed(0)
        model = models.DualEncoder(tiny_backbone, (8, 8), (2, 2), projection=0, select="learned")
        hidden = torch.randn(1, 5, 32)
        mask = torch.tensor([[True, True, True, False, False]])
        kept = model.project(Kept(hidden, mask), 1)
        scores = (hidden[0, :3] @ model.queries[1].T) * 32**-0.5
        torch.testing.assert_close(kept.vectors[0], scores.softmax(0).T @ hidden[0, :3], **CLOSE)
        assert kept.mask.tolist() == [[True, True]]

    def test_attention_received_is_the_mean_over_heads_and_real_tokens(
        self, tiny_backbone: str, texts: Texts
    ) -> None:
        model = models.DualEncoder(tiny_backbone, (8, 12), (2, 2), projection=8, select="attention").eval()
        ids, mask = texts.tokens[0].take(np.arange(4))
        with torch.no_grad():
            found = model.outputs_of(ids, mask, 0)
        assert found.received is not None
        torch.testing.assert_close(found.received.sum(1), torch.ones(4), **CLOSE)
        assert (found.received[~mask] == 0).all()


class TestTextbookForms:
    def test_cosine(self) -> None:
        head = heads.SimilarityHead("cosine", scale=3.0)
        nn.init.constant_(head.shift, 0.5)
        a, b = kept_of([0, 0], 0, 4, pooled=6), kept_of([0, 0], 0, 4, pooled=6, seed=1)
        expected = 3 * F.cosine_similarity(a.pooled, b.pooled)[:, None] + 0.5
        torch.testing.assert_close(head.combine(head.prepare(a, 0), head.prepare(b, 1)), expected, **CLOSE)

    @pytest.mark.parametrize("k", [(1, 1), (2, 5)])
    @pytest.mark.parametrize("fields", [1, 2, 3])
    def test_ffnn_is_a_net_over_the_concatenation(self, k: tuple[int, int], fields: int) -> None:
        keeps = [*k, 3][:fields]
        head = heads.FFNNHead([n * 4 for n in keeps], (16, 8), outputs=2)
        kept = [kept_of([1, 4, 2], n, 4, seed=i) for i, n in enumerate(keeps)]
        x = torch.cat([one.vectors.flatten(1) for one in kept], dim=1)
        weight = torch.cat([layer.weight for layer in head.first], dim=1)
        x = F.relu(x @ weight.T + head.first[0].bias)
        x = F.relu(head.rest[0](x))
        actual = head.combine(*(head.prepare(one, f) for f, one in enumerate(kept)))
        torch.testing.assert_close(actual, head.rest[1](x), **CLOSE)

    @pytest.mark.parametrize("k", [(1, 1), (2, 5)])
    def test_maxsim_is_the_loop_over_tokens(self, k: tuple[int, int]) -> None:
        head = heads.SimilarityHead("maxsim", scale=3.0)
        nn.init.constant_(head.shift, 0.5)
        a, b = kept_of([1, 4, 2], k[0], 4), kept_of([3, 1, 7], k[1], 4, seed=1)
        expected = []
        for i in range(3):
            left, right = a.vectors[i][a.mask[i]], b.vectors[i][b.mask[i]]
            best = [max(float(F.cosine_similarity(x, y, dim=0)) for y in right) for x in left]
            expected.append([3 * sum(best) / len(best) + 0.5])
        actual = head.combine(head.prepare(a, 0), head.prepare(b, 1))
        torch.testing.assert_close(actual, torch.tensor(expected), **CLOSE)

    def test_the_mix_is_both_on_a_line(self) -> None:
        head = heads.SimilarityHead("cosine+maxsim")
        cosine, maxsim = (heads.SimilarityHead(kind, scale=1.0) for kind in ("cosine", "maxsim"))
        head.scale.data = torch.tensor([[2.0, 3.0]])
        a, b = kept_of([2, 1, 4], 2, 4, pooled=6), kept_of([3, 3, 1], 3, 4, pooled=6, seed=5)
        parts = [h.combine(h.prepare(a, 0), h.prepare(b, 1)) for h in (cosine, maxsim)]
        actual = head.combine(head.prepare(a, 0), head.prepare(b, 1))
        torch.testing.assert_close(actual, 2 * parts[0] + 3 * parts[1], **CLOSE)

    @pytest.mark.parametrize("kind", ["ffnn", "transformer"])
    def test_a_head_with_residual_starts_at_the_cosine_and_adds_to_it(self, kind: str) -> None:
        inner: Any = (
            heads.FFNNHead([2 * 4 + 6, 3 * 4 + 6], (16,))
            if kind == "ffnn"
            else heads.TransformerHead((2, 3), 4, heads=2, ffn=8)
        )
        a, b = kept_of([2, 1], 2, 4, pooled=6), kept_of([3, 3], 3, 4, pooled=6, seed=5)
        head = heads.ResidualHead(inner, heads.SimilarityHead())
        cosine = 10 * F.cosine_similarity(a.pooled, b.pooled)[:, None]
        torch.testing.assert_close(head.combine(head.prepare(a, 0), head.prepare(b, 1)), cosine, **CLOSE)
        for p in inner.parameters():
            nn.init.normal_(p, std=0.3)
        apart = inner.combine(inner.prepare(a, 0), inner.prepare(b, 1))
        assert apart.abs().min() > 1e-4
        torch.testing.assert_close(
            head.combine(head.prepare(a, 0), head.prepare(b, 1)), cosine + apart, **CLOSE
        )

    @pytest.mark.parametrize("layers", [1, 2])
    @pytest.mark.parametrize("k", [(1, 1), (4, 6)])
    def test_transformer_is_the_standard_one_over_all_tokens(self, layers: int, k: tuple[int, int]) -> None:
        torch.manual_seed(1)
        head = heads.TransformerHead(k, 16, outputs=2, heads=4, layers=layers, ffn=32).eval()
        for p in head.parameters():
            nn.init.normal_(p, std=0.3)
        kept = [kept_of([1, 3, 9], n, 16, seed=i) for i, n in enumerate(k)]
        x = torch.cat(
            [head.enter(one.vectors + head.position[f] + head.segment[f]) for f, one in enumerate(kept)],
            dim=1,
        )
        mask = torch.cat([one.mask for one in kept], dim=1)
        stack = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            ),
            layers,
            enable_nested_tensor=False,
        )
        for plain, ours in zip(stack.layers, head.layers, strict=True):
            copy_layer(plain, ours)
        expected = head.output(head.leave(stack(x, src_key_padding_mask=~mask)[:, 0]))
        actual = head.combine(*(head.prepare(one, f) for f, one in enumerate(kept)))
        torch.testing.assert_close(actual, expected, **CLOSE)

    @pytest.mark.parametrize("fields", [1, 2])
    def test_compare_is_one_layer_over_states_product_and_difference(self, fields: int) -> None:
        head = heads.CompareHead(6, fields, hidden=5, outputs=3)
        states = [kept_of([1, 1], 1, 6, seed=i) for i in range(fields)]
        h = [s.vectors[:, 0] for s in states]
        parts = h if fields == 1 else [*h, h[0] * h[1], (h[0] - h[1]).abs()]
        weight = torch.cat(
            [own.weight for own in head.own] + ([head.both.weight] if head.both else []), dim=1
        )
        expected = head.output(F.relu(torch.cat(parts, 1) @ weight.T + head.own[0].bias))
        actual = head.combine(*(head.prepare(s, f) for f, s in enumerate(states)))
        torch.testing.assert_close(actual, expected, **CLOSE)

    @pytest.mark.parametrize("training", [True, False])
    def test_bilstm_states_equal_a_packed_bidirectional_lstm(
        self, training: bool, tiny_backbone: str, texts: Texts
    ) -> None:
        """Torch's own LSTM over packed sequences gives what both of ours give: words step by step in training, gates in inference."""
        model = students(tiny_backbone)["BiLSTM"].train(training)
        ids, mask = texts.tokens[1].take(np.arange(9))
        x = torch.cat([model.frozen(ids), model.trained(ids)], dim=-1)
        packed = nn.utils.rnn.pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        _, (h, _) = model.lstm(packed)
        with torch.set_grad_enabled(training):
            found = model.encode(ids, mask, 1).vectors[:, 0]
        torch.testing.assert_close(found, torch.cat([h[0], h[1]], dim=1), **CLOSE)

    def test_bilstm_gradients_equal_those_of_a_packed_bidirectional_lstm(
        self, tiny_backbone: str, texts: Texts
    ) -> None:
        model = students(tiny_backbone)["BiLSTM"].train()
        ids, mask = texts.tokens[1].take(np.arange(9))
        weight = torch.randn(9, 2 * model.settings["hidden"], generator=torch.Generator().manual_seed(0))

        def gradients(states: torch.Tensor) -> dict[str, torch.Tensor]:
            model.zero_grad(set_to_none=True)
            (states * weight).sum().backward()
            found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            return {n: g.to_dense() if g.is_sparse else g for n, g in found.items()}

        ours = gradients(model.encode(ids, mask, 1).vectors[:, 0])
        x = torch.cat([model.frozen(ids), model.trained(ids)], dim=-1)
        packed = nn.utils.rnn.pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        _, (h, _) = model.lstm(packed)
        plain = gradients(torch.cat([h[0], h[1]], dim=1))
        assert (
            ours.keys() == plain.keys() and "trained.weight" in ours and "lstm.weight_hh_l0_reverse" in ours
        )
        for name, gradient in plain.items():
            torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4)

    def test_the_recurrence_passes_a_numerical_gradient_check(self) -> None:
        torch.manual_seed(0)
        counts, hidden = [3, 2, 2, 1], 2
        gates = torch.randn(2, sum(counts), 4 * hidden, dtype=torch.float64, requires_grad=True)
        recurrent = torch.randn(2, hidden, 4 * hidden, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda g, r: Recurrence.apply(g, r, counts, 4), (gates, recurrent))

    def test_bilstm_looks_up_what_its_weights_are_now(self, tiny_backbone: str, texts: Texts) -> None:
        """The looked-up gates are computed anew when a weight has changed."""
        model = students(tiny_backbone)["BiLSTM"]
        before = aligned_logits(model, texts, np.arange(4))
        with torch.no_grad():
            model.trained.weight[5] += 1.0
            model.lstm.bias_hh_l0 += 0.3
        changed = aligned_logits(model, texts, np.arange(4))
        assert not torch.allclose(before, changed)
        with torch.enable_grad():
            kept = [model.encode(*t.take(texts.index[:4, f]), f) for f, t in enumerate(texts.tokens)]
        torch.testing.assert_close(changed, model.score(*kept).detach(), **CLOSE)

    def test_bilstm_of_the_paper_has_963002_parameters_beside_its_vectors(self) -> None:
        """2 directions x 600 gates x (600 + 150 + 2) + (300 x 200 + 200) + (200 x 2 + 2), the 0.96M of Tang et al. 2019, table 2."""
        model = models.BiLSTM(["word"], outputs=2)
        tables = model.frozen.weight.numel() + model.trained.weight.numel()
        assert sum(p.numel() for p in model.parameters()) - tables == 963_002


def copy_layer(plain: Any, ours: Any) -> None:
    """Give torch's own transformer layer the weights of ours."""
    pairs = [
        (plain.self_attn.in_proj_weight, ours.project.weight), (plain.self_attn.in_proj_bias, ours.project.bias),
        (plain.self_attn.out_proj.weight, ours.attended.weight), (plain.self_attn.out_proj.bias, ours.attended.bias),
        (plain.norm1.weight, ours.before_attention.weight), (plain.norm1.bias, ours.before_attention.bias),
        (plain.norm2.weight, ours.before_ffn.weight), (plain.norm2.bias, ours.before_ffn.bias),
        (plain.linear1.weight, ours.up.weight), (plain.linear1.bias, ours.up.bias),
        (plain.linear2.weight, ours.down.weight), (plain.linear2.bias, ours.down.bias),
    ]  # fmt: skip
    for target, source in pairs:
        target.data = source.data.clone()


class TestSettings:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"keep": (9, 5)}, "keep: expected 0 to the read length 8, but got 9"),
            ({"keep": (0, 0)}, "must keep at least one token"),
            ({"keep": (3, 3, 3)}, "one number for each of 2 fields"),
            ({"head": "cosine"}, "head cosine: expected pooled=true"),
            ({"residual": "cosine"}, "residual cosine: expected pooled=true"),
            ({"head": "maxsim", "keep": (0, 4), "pooled": True}, "head maxsim: expected at least one token"),
            ({"head": "maxsim", "residual": "maxsim"}, "residual: expected head ffnn or transformer"),
            ({"head": "transformer", "projection": (4, 8)}, "one projection width"),
            (
                {"select": "best"},
                "expected one of 'first', 'even', 'norm', 'attention', 'learned', but got 'best'",
            ),
            ({"projection": (4, 8, 8)}, "projection: expected one number for each of 2 fields"),
            ({"projection": -1}, "expected 0 .none. or a width, but got -1"),
            ({"head": "transformer", "keep": (0, 4), "pooled": True}, "at least one token of each field"),
            (
                {"head": "maxpool"},
                "expected one of 'cosine', 'maxsim', 'cosine.maxsim', 'ffnn', 'transformer', but got 'maxpool'",
            ),
            ({"projection": 64}, "at most the encoder's width 32, but got 64"),
            ({"layers": 3}, "layers: expected at most the backbone's 2, but got 3"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(
        self, change: dict[str, Any], message: str, tiny_backbone: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            models.DualEncoder(
                **{
                    "backbone": tiny_backbone,
                    "read_lengths": (8, 12),
                    "keep": (2, 2),
                    "projection": 8,
                    **change,
                }
            )

    @pytest.mark.parametrize("change", [{"head": "maxsim"}, {"residual": "maxsim"}, {"head": "cosine"}])
    def test_heads_for_pairs_refuse_three_fields(self, change: dict[str, Any], tiny_backbone: str) -> None:
        with pytest.raises(ValueError, match="compares two fields, but the task has 3"):
            models.DualEncoder(tiny_backbone, (8, 8, 12), (2, 2, 2), pooled=True, projection=8, **change)

    def test_a_text_of_ten_thousand_words_is_read_to_its_length(self, tiny_backbone: str) -> None:
        frame = pd.DataFrame({"query": ["red"], "passage": ["red car " * 5000]})
        texts = read(models.load_tokenizer(tiny_backbone), frame, FIELDS, [8, 12])
        assert [t.lengths.tolist() for t in texts.tokens] == [[3], [12]]

    def test_first_layers_only(self, tiny_backbone: str) -> None:
        assert len(models.load_backbone(tiny_backbone, layers=1).encoder.layer) == 1


class TestFiles:
    @pytest.mark.parametrize("kind", [*KINDS, "cross-encoder"])
    def test_a_model_read_back_scores_the_same(
        self, kind: str, tiny_backbone: str, texts: Texts, tmp_path: Path
    ) -> None:
        if kind == "cross-encoder":
            model: Any = models.CrossEncoder(tiny_backbone, (8, 12)).eval()
            again = models.load(models.save(model, tmp_path))
            with torch.no_grad():
                assert torch.equal(
                    model(*model.batch(texts, np.arange(4))), again(*model.batch(texts, np.arange(4)))
                )
            return
        model = students(tiny_backbone)[kind]
        again = models.load(models.save(model, tmp_path))
        assert torch.equal(
            aligned_logits(model, texts, np.arange(6)), aligned_logits(again, texts, np.arange(6))
        )

    def test_a_frozen_encoder_is_not_written_twice(
        self, tiny_backbone: str, texts: Texts, tmp_path: Path
    ) -> None:
        model = students(tiny_backbone)["FFNN"]
        models.save(model, tmp_path / "whole")
        models.save(model, tmp_path / "frozen", frozen_encoder=True)
        sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("frozen", "whole")]
        assert sizes[0] < sizes[1] / 4
        again = models.load(tmp_path / "frozen")
        assert torch.equal(
            aligned_logits(model, texts, np.arange(6)), aligned_logits(again, texts, np.arange(6))
        )

    def test_damaged_weights_are_refused_by_name(self, tiny_backbone: str, tmp_path: Path) -> None:
        models.save(students(tiny_backbone)["FFNN"], tmp_path)
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(
            models.ModelError, match=r"model\.safetensors: expected sha256 .* damaged or foreign"
        ):
            models.load(tmp_path)

    def test_exchanged_weights_are_refused_by_name(self, tiny_backbone: str, tmp_path: Path) -> None:
        for name, kind in (("a", "FFNN"), ("b", "MaxSim")):
            models.save(students(tiny_backbone)[kind], tmp_path / name)
        (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
        with pytest.raises(models.ModelError, match=r"a/model\.safetensors: expected sha256 .* foreign"):
            models.load(tmp_path / "a")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"auto_map": {"AutoModel": "evil.Model"}}, "asks for remote code"),
            ({"kind": "../evil"}, "unknown kind"),
            ({"kind": ["dual_encoder"]}, "unknown kind"),
            ({"settings": []}, "settings: expected a mapping"),
            ({"settings": {"trust_remote_code": True}}, "asks for remote code"),
            ({"settings": {"colour": 1}}, "its settings make no dual_encoder"),
        ],
    )
    def test_a_tampered_config_is_refused_by_name(
        self, change: dict[str, Any], message: str, tiny_backbone: str, tmp_path: Path
    ) -> None:
        path = models.save(students(tiny_backbone)["FFNN"], tmp_path) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises((models.ModelError, folders.BackboneError), match=rf"config\.json: .*{message}"):
            models.load(tmp_path)

    def test_pickled_weights_of_a_student_are_never_loaded(self, tiny_backbone: str, tmp_path: Path) -> None:
        models.save(students(tiny_backbone)["FFNN"], tmp_path)
        (tmp_path / "model.safetensors").rename(tmp_path / "model.pt")
        with pytest.raises(models.ModelError, match=r"found model\.pt: pickled weights are never loaded"):
            models.load(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"), [("{", "not whole JSON"), ("{}", "not a config"), (None, "no such file")]
    )
    def test_a_foreign_config_is_refused(self, content: str | None, message: str, tmp_path: Path) -> None:
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(models.ModelError, match=message):
            models.load(tmp_path)


class TestBackbone:
    def test_embedded_weights_are_the_publishers(self) -> None:
        assert (
            folders.sha256_of(folders.embedded_directory() / "model.safetensors") == folders.EMBEDDED_SHA256
        )

    def test_other_weights_in_the_package_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "fake_model_package" / "model").mkdir(parents=True)
        (tmp_path / "fake_model_package" / "__init__.py").write_text("raise SystemExit('imported')")
        (tmp_path / "fake_model_package" / "model" / "model.safetensors").write_bytes(b"other")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(models.folders, "EMBEDDED_PACKAGE", "fake_model_package")
        folders.embedded_directory.cache_clear()
        with pytest.raises(folders.BackboneError, match="expected the publisher's weights"):
            folders.embedded_directory()
        folders.embedded_directory.cache_clear()

    def test_pickled_weights_are_refused(self, pickled_backbone: Path) -> None:
        with pytest.raises(
            folders.BackboneError, match=r"found pytorch_model\.bin: pickled weights are never loaded"
        ):
            models.load_backbone(str(pickled_backbone))

    def test_remote_code_is_refused_and_never_run(self, tiny_backbone: str, tmp_path: Path) -> None:
        """Beside an architecture that transformers knows its own code is taken, and said."""
        for file in Path(tiny_backbone).iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "evil.py").write_text("raise SystemExit('run')")
        config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
        (tmp_path / "config.json").write_text(json.dumps(config))
        own = {"auto_map": {"AutoTokenizer": ["evil.T", None]}, "tokenizer_class": "EvilTokenizer"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
        found = models.load_backbone(str(tmp_path))
        assert found.notes == "its auto_map was ignored: transformers knows the architecture"
        assert not hasattr(found.config, "auto_map")
        expected = models.load_backbone(tiny_backbone).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
        assert models.load_tokenizer(str(tmp_path))("red house")["input_ids"] == [2, 12, 16, 3]
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "evil"}))
        with pytest.raises(folders.BackboneError, match="asks for remote code"):
            models.load_backbone(str(tmp_path))

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("config.json", {"trust_remote_code": True}, "asks for remote code"),
            ("tokenizer_config.json", {"custom_code": "evil.T"}, "asks for remote code"),
            (
                "tokenizer_config.json",
                {"fast_tokenizer_files": ["../tokenizer.4.0.json"]},
                "does not lie beside it",
            ),
            (
                "tokenizer_config.json",
                {"vocab_file": "/etc/passwd"},
                "'/etc/passwd', which does not lie beside it",
            ),
            (
                "model.safetensors.index.json",
                {"weight_map": {"a": "../up.safetensors"}},
                "does not lie beside it",
            ),
            ("model.safetensors.index.json", {"weight_map": {"a": "a.bin"}}, r"'a\.bin': only \.safetensors"),
            ("model.safetensors.index.json", {"weight_map": []}, "not a file of a checkpoint"),
        ],
    )
    def test_a_tampered_checkpoint_is_refused_by_name(
        self, name: str, content: dict[str, Any], message: str, tiny_backbone: str, tmp_path: Path
    ) -> None:
        for file in Path(tiny_backbone).iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        path = tmp_path / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **content}))
        for load in (models.load_backbone, models.load_tokenizer):
            with pytest.raises(folders.BackboneError, match=f"{name}: .*{message}"):
                load(str(tmp_path))

    def test_a_half_precision_checkpoint_is_loaded_as_float32(
        self, tiny_backbone: str, tmp_path: Path
    ) -> None:
        from transformers import AutoModel

        AutoModel.from_pretrained(tiny_backbone, dtype=torch.float16).save_pretrained(tmp_path)
        assert {p.dtype for p in models.load_backbone(str(tmp_path)).parameters()} == {torch.float32}

    def test_a_missing_directory_is_not_taken_for_a_hub_name(self) -> None:
        with pytest.raises(folders.BackboneError, match="no such directory"):
            models.load_backbone("./nowhere/model")


class TestTokens:
    def test_padding_by_hand(self) -> None:
        tokens = Tokens(np.array([2, 7, 3, 2, 8, 9, 3], np.int32), np.array([0, 3, 7]))
        ids, mask = tokens.take(np.array([1, 0]))
        assert ids.tolist() == [[2, 8, 9, 3], [2, 7, 3, 0]]
        assert mask.tolist() == [[True] * 4, [True, True, True, False]]

    def test_each_distinct_text_once(self, texts: Texts, pairs: pd.DataFrame) -> None:
        assert [len(t) for t in texts.tokens] == [pairs["query"].nunique(), pairs["passage"].nunique()]
        assert [texts.distinct[1][i] for i in texts.index[:, 1]] == pairs["passage"].tolist()

    def test_batches_are_sorted_by_length_and_complete(self) -> None:
        batches = length_sorted(np.array([3, 9, 5, 7]), 2)
        assert [b.tolist() for b in batches] == [[1, 3], [2, 0]]

    def test_batches_hold_so_many_word_pieces(self) -> None:
        lengths = np.array([3, 9, 5, 7, 2, 2])
        assert [b.tolist() for b in in_batches(lengths, 14)] == [[1], [3, 2], [0, 4, 5]]  # 9, 2 x 7, 3 x 3
        assert [b.tolist() for b in in_batches(lengths, 1)] == [[1], [3], [2], [0], [4], [5]]

    def test_a_read_length_for_each_field(self, tiny_backbone: str, pairs: pd.DataFrame) -> None:
        with pytest.raises(ValueError, match="expected 2 numbers"):
            read(models.load_tokenizer(tiny_backbone), pairs, FIELDS, [8])


class TestBaselines:
    def test_constant_is_the_log_odds_of_training(self) -> None:
        model = models.Constant.fit(np.array([0, 0, 0, 1]), 2)
        assert model.config["logits"] == [pytest.approx(np.log(1 / 3))]

    def test_tfidf_ranks_the_pair_with_words_in_common_first(
        self, texts: Texts, pairs: pd.DataFrame, tmp_path: Path
    ) -> None:
        model = models.TfIdf.fit(texts, pairs["label"].to_numpy(), 2)
        logits = model.predict(texts)
        assert logits[pairs["label"] == 1].mean() > logits[pairs["label"] == 0].mean() + 1
        again = models.load(models.save(model, tmp_path))
        np.testing.assert_allclose(again.predict(texts), logits, rtol=1e-6)
