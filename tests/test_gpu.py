"""Facts about the GPU's tile: the head's own scores whatever the shapes, nothing written beside them, nothing above its floor lost.

Without a GPU the kernel runs in Triton's interpreter (``conftest`` asks for it); with one, ``make test-gpu`` runs them on it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dipair_lib import models
from dipair_lib.experiments import scale
from dipair_lib.models import heads
from dipair_lib.scoring import block_search, collection, encoding, execution, job_parts, jobs, manifest
from dipair_lib.scoring.jobs import Job
from dipair_lib.scoring.scorer import Scorer
from dipair_lib.scoring.tiles import compilation, gpu
from dipair_lib.scoring.top_k import TopK

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.skipif(
    not gpu.interpreted() and bool(gpu.unavailable_reason()), reason=gpu.unavailable_reason()
)


@pytest.fixture(autouse=True)
def stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the interpreter runs the kernel, it is taken for a GPU."""
    if gpu.interpreted():
        monkeypatch.setattr(gpu, "unavailable_reason", lambda: "")
        monkeypatch.setattr(gpu, "free", lambda: 1 << 40)
        monkeypatch.setattr(gpu, "shared", lambda: 227 << 10)


def head_of(hidden: tuple[int, ...], seed: int = 0) -> heads.FFNNHead:
    torch.manual_seed(seed)
    head = heads.FFNNHead([6, 6], hidden)
    for p in head.parameters():
        torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5)
    return head


def texts(m: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(m, width, generator=torch.Generator().manual_seed(seed))


def shortened(values: torch.Tensor) -> torch.Tensor:
    """float32 to the nearest bfloat16; the interpreter cuts the last bits off instead."""
    if gpu.interpreted():
        return (values.view(torch.int32) & -65536).view(torch.float32)
    return values.bfloat16().float()


def in_float64(head: heads.FFNNHead, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The kernel's scores [m, n], written out: what is bfloat16 there is rounded, everything else is exact."""
    second, last = ((layer.weight.detach().double(), layer.bias.detach().double()) for layer in head.rest)
    x = shortened(torch.relu(a.bfloat16().float()[:, None] + b.bfloat16().float()[None])).double()
    x = torch.relu(x @ second[0].bfloat16().double().T + second[1])
    return (x @ last[0].T + last[1])[..., 0]


class TestScores:
    @pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 127), (2, 128), (130, 3), (5, 259)])
    @pytest.mark.parametrize("hidden", [(64, 32), (40, 7), (1, 1)])
    def test_they_are_the_heads_in_float64(self, m: int, n: int, hidden: tuple[int, int]) -> None:
        """Off by float32 sums of some dozen products alone, so by 1e-5 at most; one lost or doubled term would be off by 1e-2."""
        head, a, b = head_of(hidden), texts(m, hidden[0], 1), texts(n, hidden[0], 2)
        tile = gpu.Tile(head)
        found = tile.scores(tile.side((a,)), tile.side((b,))).cpu()
        torch.testing.assert_close(found.double(), in_float64(head, a, b), atol=1e-5, rtol=1e-5)

    def test_of_the_widths_that_are_meant(self) -> None:
        head, a, b = head_of((256, 128)), texts(2, 256, 1), texts(130, 256, 2)
        tile = gpu.Tile(head)
        found = tile.scores(tile.side((a,)), tile.side((b,))).cpu()
        torch.testing.assert_close(found.double(), in_float64(head, a, b), atol=1e-5, rtol=1e-5)
        plain = head.combine((a[:, None],), (b[None],))[..., 0].detach()
        assert (found - plain).abs().max() < 0.03 * float(plain.abs().max())

    @pytest.mark.parametrize("residual", ["", "cosine"])
    def test_of_a_model_as_torch_has_them(
        self, tiny_backbone: str, pairs: pd.DataFrame, residual: str
    ) -> None:
        torch.manual_seed(0)
        model = models.DualEncoder(
            tiny_backbone, (10, 14), (3, 3), pooled=True, projection=8, hidden=(32, 16), residual=residual
        ).eval()
        for p in model.head.parameters():
            torch.nn.init.normal_(p, std=0.3)
        if residual:
            torch.nn.init.constant_(model.head.line.shift, 5.0)
            torch.nn.init.constant_(model.head.line.scale, 10.0)
        scorer = Scorer(model)
        assert isinstance(scorer.compiled, gpu.Tile)
        left = scorer.prepare(pairs["query"].unique()[:5].tolist(), 0)
        right = scorer.prepare(pairs["passage"].unique()[:40].tolist(), 1)
        want = scorer.tile(left, right)
        # 1/256, what the interpreter cuts off an activation, of the scores' size; a cosine or shift left out were 100 times as much.
        torch.testing.assert_close(scorer.fast_tile(left, right), want, atol=0.05, rtol=0)

    def test_nothing_else_is_written(self) -> None:
        """Scores overwrite what was there, and memory before and behind them keeps what it held."""
        head, m, n = head_of((16, 16)), 3, 131
        tile = gpu.Tile(head)
        left, right = tile.side((texts(m, 16, 1),)), tile.side((texts(n, 16, 2),))
        around = torch.full((m * n + 2048,), float("nan"), device=tile.device)
        around[:1024], around[-1024:] = 7.0, 8.0
        tile.launch(left, right, around[1024:-1024].view(m, n))
        assert (around[:1024] == 7).all() and (around[-1024:] == 8).all()
        torch.testing.assert_close(around[1024:-1024].view(m, n), tile.scores(left, right))
        assert around.isfinite().all()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_number_that_is_none_is_not_hidden(self, value: float) -> None:
        head = head_of((32, 32))
        tile, a, b = gpu.Tile(head), texts(3, 32, 1), texts(140, 32, 2)
        a[1, 5], b[135, 7] = value, value
        left, right = tile.side((a,)), tile.side((b,))
        found = tile.scores(left, right).cpu()
        bad = torch.zeros(3, 140, dtype=torch.bool)
        bad[1], bad[:, 135] = True, True
        assert found[~bad].isfinite().all() and not found[bad].isfinite().any()
        above = tile.above(left, right, torch.full((3,), 1e9, device=tile.device))
        assert above is not None and set(zip(*(t.tolist() for t in above[:2]), strict=True)) == set(
            map(tuple, bad.nonzero().tolist())
        )
        with pytest.raises(manifest.CollectionError, match="not a finite number"):
            block_search.finite(above.score)


class TestAbove:
    @pytest.fixture
    def made(self) -> tuple[gpu.Tile, models.Prepared, models.Prepared, torch.Tensor]:
        tile = gpu.Tile(head_of((16, 16)))
        left, right = tile.side((texts(9, 16, 1),)), tile.side((texts(300, 16, 2),))
        return tile, left, right, tile.scores(left, right)

    def test_what_reaches_its_floor_and_nothing_else(self, made: Any) -> None:
        tile, left, right, scores = made
        thresholds = scores.sort(1).values[:, 280]
        thresholds[0], thresholds[1] = float("-inf"), 1e9
        found = tile.above(left, right, thresholds)
        i, j = (scores >= thresholds[:, None]).nonzero(
            as_tuple=True
        )  # a score that equals its floor reaches it
        assert len(i) == 300 + 0 + 7 * 20
        assert found.left.equal(i) and found.right.equal(j) and found.score.equal(scores[i, j])
        assert found.pairs == 9 * 300

    def test_what_has_no_room_is_said_and_not_written(self, made: Any) -> None:
        tile, left, right, _ = made
        thresholds = torch.full((9,), float("-inf"), device=tile.device)
        assert tile.above(left, right, thresholds, room=9 * 300 - 1) is None
        assert len(tile.above(left, right, thresholds, room=9 * 300).left) == 9 * 300
        out = torch.full((1000,), 7.0, device=tile.device)
        found = torch.full((1000,), -7, dtype=torch.int64, device=tile.device)
        count = torch.zeros(1, dtype=torch.int32, device=tile.device)
        tile.launch(left, right, out[:100], thresholds, found[:100], count)
        assert int(count) == 9 * 300
        assert (out[100:] == 7).all() and (found[100:] == -7).all() and (found[:100] != -7).all()

    @pytest.mark.parametrize("room", [9, 60, 1000])
    def test_the_best_of_all_whatever_the_room(
        self, made: Any, room: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Spans that find too much are halved: the order is the worst, each right text better than those before.

        The same pair is summed in another order where its tile is another: the places are equal, the scores nearly.
        """
        tile, left, right, scores = made
        monkeypatch.setattr(gpu, "MAX_CANDIDATES", room)
        monkeypatch.setattr(gpu, "ROWS", 32)
        order = scores.sum(0).argsort()
        right, scores = (right[0][order[:100]],), scores[:, order[:100]]
        best, asked = TopK(9, 4, tile.device), []

        def block(start: int, stop: int) -> models.Prepared:
            asked.append((start, stop))
            return (right[0][start:stop],)

        pairs = 0
        for found in tile.candidates(left, block, 100, best.thresholds):
            best.merge(found.left, found.score, found.right)
            pairs += found.pairs
        places, highest = best.sorted()
        want = TopK(9, 4)
        want.add(scores.cpu(), torch.arange(100))
        assert places.cpu().equal(want.sorted()[0])
        near = 1e-6 if gpu.interpreted() else 1e-5
        torch.testing.assert_close(highest.cpu(), want.sorted()[1], atol=near, rtol=near)
        assert pairs == 9 * 100
        assert any(a == c for (a, _), (c, _) in itertools.pairwise(asked)) == (room < 1000)


class TestJobs:
    LEFT, RIGHT = 7, 90

    @pytest.fixture(params=["", "cosine"])
    def sides(self, request: Any, tiny_backbone: str, tmp_path: Path, pairs: pd.DataFrame) -> Path:
        torch.manual_seed(0)
        model = models.DualEncoder(
            tiny_backbone, (10, 14), (3, 2), pooled=True, projection=8, hidden=(8, 4), residual=request.param
        )
        for p in model.head.parameters():
            torch.nn.init.normal_(p, std=0.3)
        models.save(model.eval(), tmp_path / "s")
        for side, (name, column, n) in enumerate((("a", "query", self.LEFT), ("b", "passage", self.RIGHT))):
            words = [f"{text} {i}" for i, text in enumerate((pairs[column].tolist() * 2)[:n])]
            pd.DataFrame({"id": range(n), "text": words}).to_parquet(tmp_path / f"{name}.parquet")
            encoding.encode(
                tmp_path / "s", tmp_path / f"{name}.parquet", side, tmp_path / name, shard_texts=40
            )
        return tmp_path

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that few texts fill several programs, spans and lists."""
        for module, name, value in (
            (gpu, "ROWS", 16),
            (gpu, "LINES", 3),
            (gpu, "MAX_CANDIDATES", 70),
            (gpu, "READ", 40),
        ):
            monkeypatch.setattr(module, name, value)
        monkeypatch.setattr(block_search, "RESCORED", 64)

    def cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From here on torch computes."""
        monkeypatch.setattr(gpu, "unavailable_reason", lambda: "off")
        monkeypatch.setattr(compilation, "unavailable_reason", lambda: "off")

    def scored(self, sides: Path, out: str, **asked: Any) -> pd.DataFrame:
        paths: dict[str, Any] = {
            "student": str(sides / "s"),
            "left": str(sides / "a"),
            "right": str(sides / "b"),
        }
        counts = execution.score(Job(**paths, tile=(4, 60), **asked), sides / out)
        assert counts["pairs"] == self.LEFT * self.RIGHT
        assert job_parts.verify(sides / out) == []
        parts = [pd.read_parquet(p) for p in sorted((sides / out).glob("part-*.parquet"))]
        return pd.concat(parts, ignore_index=True)

    @pytest.mark.parametrize("held", [True, False])
    @pytest.mark.parametrize("asked", [["top"], ["top", "threshold"], ["threshold"]])
    def test_parts_are_those_of_torch_alone(
        self, sides: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], held: bool
    ) -> None:
        scorer = Scorer.load(sides / "s")
        every = scorer.tile(*(collection.Collection.open(sides / c).block(0, 999) for c in "ab"))
        settings = {"top": 3, "threshold": float(every.quantile(0.9))}
        if not held:
            monkeypatch.setattr(gpu, "free", lambda: 0)
        calls, launch = [0], gpu.Tile.launch

        def counted(*args: Any) -> None:
            calls[0] += 1
            launch(*args)

        monkeypatch.setattr(gpu.Tile, "launch", counted)
        fast = self.scored(sides, "fast", **{name: settings[name] for name in asked})
        assert calls[0] > 6  # two units of several spans each, and the look at the error
        again = self.scored(sides, "again", **{name: settings[name] for name in asked})
        pd.testing.assert_frame_equal(fast, again, check_exact=True)
        self.cpu(monkeypatch)
        slow = self.scored(sides, "slow", **{name: settings[name] for name in asked})
        order = ["left", "right"]
        if "top" not in asked:  # rows stand in the order of the spans
            fast, slow = (f.sort_values(order, ignore_index=True) for f in (fast, slow))
        assert fast[order].equals(slow[order])
        np.testing.assert_allclose(fast["score"], slow["score"], atol=1e-5)
        assert len(fast) >= 15

    def test_a_fast_score_that_is_far_off_costs_work_not_pairs(
        self, sides: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error as large as the differences between texts: what the short list may lack is found by a second search."""
        real = gpu.Tile.launch

        def noisy(self: gpu.Tile, left: Any, right: Any, out: Any, *chosen: Any) -> None:
            if not chosen:
                return real(self, left, right, out)
            scores = self.scores(left, right)
            # A fixed error for each pair, by its texts alone: launches see other spans of them.
            scores += 0.5 * torch.sin(1e4 * (left[0].float().sum(1)[:, None] + right[0].float().sum(1)[None]))
            i, j = (scores >= chosen[0][:, None]).nonzero(as_tuple=True)
            chosen[2].fill_(len(i))
            fits = min(len(i), len(out))
            chosen[1][:fits], out[:fits] = ((i << 32) | j)[:fits], scores[i, j][:fits]

        monkeypatch.setattr(gpu.Tile, "launch", noisy)
        monkeypatch.setattr(block_search.Work, "largest_error", lambda self: 0.5)
        fast = self.scored(sides, "fast", top=2)
        self.cpu(monkeypatch)
        monkeypatch.setattr(block_search.Work, "largest_error", lambda self: 0.0)
        slow = self.scored(sides, "slow", top=2)
        assert fast[["left", "right"]].equals(slow[["left", "right"]])

    def test_damage_stops_the_job(self, sides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = gpu.ResidentCollection.block

        def damaged(self: gpu.ResidentCollection, start: int, stop: int) -> models.Prepared:
            share, *rest = real(self, start, stop)
            share = share.clone()
            share[-1, 0] = float("nan")
            return share, *rest

        monkeypatch.setattr(gpu.ResidentCollection, "block", damaged)
        for asked in ({"top": 3}, {"threshold": 1e9}):
            with pytest.raises(manifest.CollectionError, match="a score is not a finite number"):
                self.scored(sides, f"out{len(asked)}{next(iter(asked))}", **asked)
            assert not list(sides.glob("out*/part*"))


class TestRate:
    def test_a_roofline_has_the_gpu_beside_the_cpu(
        self, tiny_backbone: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.manual_seed(0)
        kept: dict[str, Any] = {"keep": (3, 3), "projection": 8, "pooled": True, "residual": "cosine"}
        scorer = Scorer(models.DualEncoder(tiny_backbone, (10, 14), hidden=(32, 16), **kept).eval())
        monkeypatch.setattr(scale, "GPU_SIDES", (3, 40))
        lines = scale.roofline(scorer, scorer.prepare(["a", "b"], 0), scorer.prepare(["c"] * 5, 1), turns=2)
        assert lines["way"].tolist() == ["torch", "fused"] and lines["pairs"].tolist() == [10, 120]
        fused = lines.iloc[1]
        assert fused["dtype"] == "bfloat16" and fused["flops_per_pair"] == 2 * 32 * 16 + 2 * 16 + 2 * 32
        text = 2 * 32 + 4 * 32  # a share of 32 bfloat16, a vector of 32 float32
        assert fused["bytes_per_pair"] == pytest.approx(text / 3 + text / 40 + 8)
        assert fused["of_peak"] == fused["gflops"] / fused["peak_gflops"] > 0

    def test_the_rate_of_random_texts_says_whether_they_were_scored(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gpu, "MAX_CANDIDATES", 100)
        monkeypatch.setattr(jobs, "LEFT", 4)
        monkeypatch.setattr(scale.clocks, "ceiling", lambda device: {"peak_gflops_bfloat16": 100.0})
        found = scale.fused_rate(6, 90, hidden=(16, 16), top=3)
        assert found["pairs"] == 540 and found["missing"] == 0 and 0 < found["difference"] < 0.05
        assert found["gflops"] == pytest.approx(540 / found["seconds"] * (2 * 16 * 16 + 2 * 16) / 1e9)
        assert found["of_peak"] == pytest.approx(found["gflops"] / 100)
        candidates = gpu.Tile.candidates

        def short(self: gpu.Tile, left: Any, right: Any, n: int, thresholds: Any) -> Any:
            return candidates(self, left, right, 45, thresholds)

        monkeypatch.setattr(gpu.Tile, "candidates", short)
        assert scale.fused_rate(6, 90, hidden=(16, 16), top=3)["missing"] > 0

    def test_without_a_gpu_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu, "unavailable_reason", lambda: "there is no CUDA GPU")
        with pytest.raises(RuntimeError, match="there is no CUDA GPU"):
            scale.fused_rate()


class TestWhere:
    def test_heads_that_do_not_fit_are_left_to_the_cpu(
        self, tiny_backbone: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def of(**settings: Any) -> gpu.Tile | None:
            kept: dict[str, Any] = {"keep": (3, 3), "projection": 8, "pooled": True, **settings}
            return gpu.Tile.of(models.DualEncoder(tiny_backbone, (10, 14), **kept))

        assert of(hidden=(16, 8)) is not None and of(hidden=(16, 8), residual="cosine") is not None
        assert of(hidden=(16,)) is None and of(hidden=(16, 8, 4)) is None
        assert of(hidden=(1024, 128)) is None  # more than fits on the chip
        assert of(hidden=(16, 8), residual="maxsim") is None
        assert of(head="transformer") is None and of(head="cosine", keep=(0, 0), projection=0) is None
        monkeypatch.undo()
        if gpu.interpreted():
            assert of(hidden=(16, 8)) is None

    def test_why_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        monkeypatch.setenv("DIPAIR_GPU", "0")
        assert gpu.unavailable_reason() == "DIPAIR_GPU=0 switches it off"
        monkeypatch.delenv("DIPAIR_GPU")
        monkeypatch.setenv("TRITON_INTERPRET", "0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert gpu.unavailable_reason() == "there is no CUDA GPU"


# In a process of its own, since this one's Triton interprets. Prints shared memory, and what the machine code is made of.
COMPILED = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dipair_lib.scoring.tiles import fused, gpu

fixed = dict(HIDDEN=256, OUTER=128, ROWS=gpu.ROWS, LINES=gpu.LINES, START=True, CHOOSE=True)
fixed |= dict(SUMS=tl.bfloat16, FACTORS=tl.bfloat16)
names = fused.ffnn.arg_names
kinds = dict.fromkeys(("left", "right", "weight"), "*bf16") | dict.fromkeys(("room", "m", "n"), "i32")
kinds |= {"shift": "fp32", "found": "*i64", "count": "*i32"}
signature = {name: "constexpr" if name in fixed else kinds.get(name, "*fp32") for name in names}
aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
source = ASTSource(fused.ffnn, signature, {(names.index(name),): value for name, value in fixed.items()}, aligned)
made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
code = made.asm["ptx"]
products = code.count("wgmma.mma_async"), code.count("m64n128k16.f32.bf16.bf16")
print(made.metadata.shared, *products, len(made.asm["cubin"]))
"""


def test_it_compiles_for_a_hopper_gpu_and_multiplies_on_its_matrix_units(tmp_path: Path) -> None:
    """All 16 steps of the 256-128 product as bfloat16 instructions of a warp group, and no more memory than a program may have."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    shared, products, shapes, size = map(int, done.stdout.split())
    assert shared <= 2 * 256 * (128 + gpu.ROWS) + (8 << 10) <= 227 << 10
    assert products == shapes == 256 // 16 and size > 0
