"""Parity: a cheaper way's price is what two runs of the same images show, and every such run says it."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from ddeval import cli
from ddeval.models.checkpoint import load_checkpoint
from ddeval.score import parity
from ddeval.score.folder import read_run
from ddeval.score.numbers import judged_rows
from ddeval.score.parity import is_cheaper, parity_with
from ddeval.score.run import Settings, execute, prepare, score
from tests.score_fixture import CLASSES, make_artefact, make_manifest

QUICK = ("--n-resamples", "20", "--calibrators", "none")
SETTINGS = Settings(device="cpu", batch_size=8)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_manifest(tmp_path, 60)
    make_artefact(tmp_path / "tiny")
    make_artefact(tmp_path / "other", seed=1)
    return tmp_path


def test_flips_and_paired_difference_are_those_of_two_runs(home, monkeypatch):
    """Against another network, so that many answers differ; worked out here from the two runs themselves."""
    monkeypatch.setattr(parity, "MOST_IMAGES", 40)
    job = prepare(load_checkpoint(home / "tiny"), home / "manifest.csv", settings=SETTINGS, out=home / "run")
    run, other = execute(job), load_checkpoint(home / "other")
    found = parity_with(run, job, other)

    beside = score(other, home / "manifest.csv", settings=SETTINGS, out=home / "beside")
    ours, theirs = (judged_rows(r).predictions.logits[:40].astype(float) for r in (run, beside))
    labels = judged_rows(run).labels[:40]
    assert found["n_images"] == 40
    assert 5 < found["n_flips"] == (ours.argmax(1) != theirs.argmax(1)).sum()
    assert found["largest_logit_difference"] == pytest.approx(np.abs(ours - theirs).max())
    is_target = labels != CLASSES.index("other")
    right = [(x[is_target, :3].argmax(1) == labels[is_target]).mean() for x in (ours, theirs)]
    gain = found["top_1_difference"]
    assert gain["difference"] == pytest.approx(right[0] - right[1])
    assert gain["ci_low"] < gain["difference"] < gain["ci_high"]
    assert gain["n_images"] == is_target.sum()
    assert read_run(run)["parity"] == found
    assert parity_with(run, job, job.checkpoint) == found, "measured once a run"


def test_half_precision_on_a_cpu_says_what_it_costs(home, monkeypatch):
    monkeypatch.setattr(parity, "MOST_IMAGES", 40)  # of the 50 that are judged
    options = ("--data", home / "manifest.csv", "--device", "cpu", *QUICK)
    told = [str(o) for o in ("score", home / "tiny", *options, "--dtype", "bf16", "--out", home / "half")]
    result = CliRunner().invoke(cli.app, told)
    assert result.exit_code == 0, result.stderr
    found = read_run(home / "half")["parity"]
    line = f"bf16 against tiny in fp32, the first 40 images: {found['n_flips']} answers changed (at most "
    assert line in result.stdout
    plain = score(
        load_checkpoint(home / "tiny"), home / "manifest.csv", settings=SETTINGS, out=home / "plain"
    )
    half, exact = (judged_rows(r).predictions.logits[:40] for r in (home / "half", plain))
    assert found["n_flips"] == (half.argmax(1) != exact.argmax(1)).sum()
    assert found["largest_logit_difference"] == pytest.approx(np.abs(half - exact).max(), rel=1e-3)
    assert found["largest_logit_difference"] > 1e-4, "bf16 was computed"

    again = CliRunner().invoke(cli.app, [*told, "--json"])
    assert json.loads(again.stdout)["parity"] == found


def test_the_plain_way_is_compared_with_nothing(home):
    job = prepare(load_checkpoint(home / "tiny"), home / "manifest.csv", settings=SETTINGS, out=home / "run")
    assert not is_cheaper(job)
    float8 = job.on._replace(precision="fp8")
    assert is_cheaper(job._replace(on=float8))


def test_no_change_in_few_images_is_no_proof_of_none(home):
    """0 of 21: the exact upper end is 1 - .025 ** (1 / 21), and the interval of the difference is as wide."""
    job = prepare(load_checkpoint(home / "tiny"), home / "manifest.csv", settings=SETTINGS, out=home / "run")
    found = parity_with(execute(job), job, job.checkpoint)
    gain = found["top_1_difference"]
    assert (found["n_flips"], found["largest_logit_difference"], gain["difference"]) == (0, 0.0, 0.0)
    assert found["flips_high"] == pytest.approx(1 - 0.025 ** (1 / found["n_images"]))
    assert gain["ci_high"] == -gain["ci_low"] == pytest.approx(1 - 0.025 ** (1 / gain["n_images"]))
