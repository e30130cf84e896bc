"""`ddeval bench`: times that add up, limits that fail, and a roofline from counted arithmetic."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel
from typer.testing import CliRunner

from ddeval.cli import app
from ddeval.models.checkpoint import load_checkpoint
from ddeval.score import roofline
from ddeval.score.engine import engine
from ddeval.score.latency import drawn_requests, serving_cost
from tests.score_fixture import make_artefact, make_manifest


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    return make_artefact(tmp_path_factory.mktemp("bench") / "tiny")


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Ceilings of small products: on a real machine half a second of large ones."""
    monkeypatch.setattr(roofline, "MEASURED_SECONDS", 0.02)
    monkeypatch.setattr(roofline, "MATRIX_SIDE", {"cpu": 256})
    monkeypatch.setattr(roofline, "COPIED_BYTES", {"cpu": 2**20})


def bench(*arguments, code=0):
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_times_of_a_request_are_the_sum_of_its_parts(artefact, tmp_path):
    out = tmp_path / "bench.json"
    before = sorted(path.name for path in artefact.iterdir())
    told = json.loads(bench(artefact, "--requests", 60, "--batch", 4, "--out", out, "--json").stdout)
    assert told == json.loads(out.read_text())
    assert sorted(path.name for path in artefact.iterdir()) == before  # nothing is written into an artefact

    times = np.array(told["latencies_ms"])
    assert len(times) == told["n"] == 60
    assert told["latency_p95_ms"] == pytest.approx(np.quantile(times, 0.95), abs=1e-3)
    assert told["latency_p50_ms"] <= told["latency_p95_ms"] <= told["latency_p99_ms"] <= times.max() + 1e-3
    assert told["latency_p95_ci_ms"][0] <= told["latency_p95_ms"]
    assert [size["batch"] for size in told["batches"]] == [1, 4]
    for size in told["batches"]:
        parts = [size[f"{part}_ms"] for part in ("decode", "transfer", "compute")]
        assert min(parts) > 0
        assert max(parts) < size["p99_ms"]
        assert size["roofline_reached"] == pytest.approx(size["roofline_ms"] / size["compute_ms"])
    assert told["cold_start_s"]["total"] == pytest.approx(
        sum(told["cold_start_s"][part] for part in ("imports", "weights", "device", "first_answer"))
    )
    assert told["images_per_second"] > 0
    assert 0.05 < told["peak_memory_gb"] < 20
    assert (told["checkpoint"], told["device"], told["dtype"]) == ("tiny", "cpu", "fp32")


def test_a_limit_that_is_exceeded_exits_1_and_is_named(artefact):
    few = (artefact, "--requests", 2, "--batch", 1)
    slow = bench(*few, "--max-p95", 1e-6, code=1)
    assert "p95 of one photograph is" in slow.stderr
    assert "1e-06 ms" in slow.stderr
    large = bench(*few, "--max-memory", 1e-3, "--json", code=1)
    assert json.loads(large.stdout)["exceeded"][0].startswith("peak memory")
    within = bench(*few, "--max-p95", 1e6, "--max-memory", 1e3)
    assert "limit" not in within.stderr
    assert "roofline" in within.stdout


def test_photographs_and_answers_come_from_the_manifest(artefact, tmp_path):
    """A damaged photograph is named, not timed."""
    manifest = make_manifest(tmp_path, n=6, n_calibration=0)
    told = json.loads(bench(artefact, "--data", manifest, "--requests", 3, "--batch", 2, "--json").stdout)
    assert told["n"] == 3
    (tmp_path / "images" / "00.jpg").write_bytes(b"no photograph")
    assert "00.jpg" in bench(artefact, "--data", manifest, "--requests", 3, code=3).stderr


def test_a_slower_model_takes_longer_and_most_of_it_is_compute(artefact, tmp_path):
    """The clock is around the model: one that sleeps 30 ms answers in 30 ms or more."""
    import time

    checkpoint = load_checkpoint(artefact)
    checkpoint.module.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    on = engine(checkpoint, "cpu")
    told = serving_cost(
        checkpoint, on, drawn_requests(checkpoint, tmp_path, size=(64, 48)), batch=1, n_requests=5
    )
    (size,) = told["batches"]
    assert size["compute_ms"] >= 30
    assert size["decode_ms"] < 30
    assert told["latency_p50_ms"] >= size["compute_ms"]
    assert told["images_per_second"] < 34


class Photographs(nn.Module):
    """A vision model as the engine calls it."""

    def __init__(self, vision: nn.Module) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, pixels, answers):
        return self.vision(pixel_values=pixels).pooler_output, answers


def test_the_arithmetic_of_a_transformer_is_counted_in_full():
    """Attention too, which the counter of torch leaves out of fused kernels."""
    h, mlp, layers, patch, side = 48, 80, 3, 8, 64
    shape = {
        "hidden_size": h,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": 3,
    }
    vision = SiglipVisionModel(SiglipVisionConfig(**shape, patch_size=patch, image_size=side)).eval()
    n = (side // patch) ** 2
    block = 2 * n * (4 * h * h + 2 * h * mlp) + 4 * n * n * h
    pool = 2 * n * 2 * h * h + 4 * h * h + 4 * n * h + 4 * h * mlp
    expected = layers * block + 2 * n * 3 * patch * patch * h + pool
    assert roofline.count_flops(Photographs(vision), (3, side, side), None) == expected


def test_what_only_runs_on_numbers_is_not_counted():
    class Reading(nn.Module):
        def forward(self, pixels, answers):
            return pixels * float(pixels.sum()), None

    assert np.isnan(roofline.count_flops(Reading(), (3, 8, 8), None))


def test_the_roofline_is_the_slower_of_arithmetic_and_memory():
    top = roofline.Ceiling(flops=1e12, bandwidth=1e9)
    assert top.least_seconds(5e12, 10**9) == 5
    assert top.least_seconds(5e11, 2 * 10**9) == 2


def test_weights_shared_by_two_layers_are_read_once():
    one = nn.Linear(10, 10, bias=False)
    other = nn.Linear(10, 10, bias=False)
    other.weight = one.weight
    assert roofline.weight_bytes(nn.Sequential(one, other)) == 400
    assert roofline.weight_bytes(nn.Sequential(one, other).to(torch.bfloat16)) == 200
