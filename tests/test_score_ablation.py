"""Questions ablated on stored embeddings: a planted model of which one question alone matters."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from ddeval.cli import app
from ddeval.data.images import Preprocessing
from ddeval.models.backbones import backbone_config
from ddeval.models.checkpoint import load_checkpoint, write_artefact
from ddeval.models.fusion import Fusion
from ddeval.score.ablation import ablate
from ddeval.score.run import score
from tests.score_fixture import CLASSES, SCHEMA, SMALL, SMALLER, make_manifest

N = 40


def planted(folder, *, seed=0):
    """A model that answers by `itch` alone: none -> eczema, mild -> psoriasis, unknown -> acne."""
    torch.manual_seed(seed)
    model = {
        "backbone": "resnet_tiny",
        "backbone_config": backbone_config("resnet_tiny", changes=SMALLER),
        "answers_width": SCHEMA.width,
        "questionnaire_widths": [SCHEMA.width],
        "activation": "relu",
    }
    module = Fusion(n_classes=len(CLASSES), **{k: v for k, v in model.items() if k != "backbone"})
    with torch.no_grad():
        module.questionnaire[0].weight.copy_(torch.eye(SCHEMA.width))
        module.questionnaire[0].bias.zero_()
        module.head.weight.zero_()
        module.head.bias.zero_()
        module.head.weight[:3, -SCHEMA.width : -SCHEMA.width + 3] = 5 * torch.eye(3)
        module.head.weight[0, 0] = 0.01  # the photograph says a little
    return write_artefact(
        folder, state=module.state_dict(), name="planted", model=model,
        preprocessing=Preprocessing.for_norm("siglip", 32), class_names=CLASSES, other_class="other",
        schema=SCHEMA,
    )  # fmt: skip


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Labels that are what `itch` says, in every case; both photographs of a case have one answer."""
    folder = tmp_path_factory.mktemp("ablation")
    manifest = make_manifest(folder, N)
    frame = pd.read_csv(manifest)
    case = np.arange(N) // 2
    frame["q.itch"] = np.array(["none", "mild", None], dtype=object)[case % 3]
    frame["q.fever"] = np.array(["yes", "no"])[case // 3 % 2]
    frame["label"] = np.array(CLASSES)[case % 3]
    frame.to_csv(manifest, index=False)
    score(load_checkpoint(planted(folder / "planted")), manifest, settings=SMALL, out=folder / "run")
    return folder


def row(table, field, how="permuted", metric="top_1_accuracy"):
    (found,) = table[(table["field"] == field) & (table["how"] == how) & (table["metric"] == metric)].to_dict(
        "records"
    )
    return found


def test_only_the_question_that_matters_costs_anything(scored):
    """15 test cases, 5 of each answer: a case given another's answer keeps its own class in about a third."""
    found = ablate(scored / "run", load_checkpoint(scored / "planted"), n_resamples=200)
    itch, fever = row(found.table, "itch"), row(found.table, "fever")
    assert 0.4 < itch["lost"] < 0.95
    assert 0 < itch["ci_low"] < itch["lost"] < itch["ci_high"]
    assert itch["p_holm"] < 0.05
    assert (fever["lost"], fever["p_holm"]) == (0.0, 1.0)
    assert np.isnan([fever["ci_low"], fever["ci_high"]]).all()  # no draw differs: no interval of no width
    assert row(found.table, "all questions")["lost"] == pytest.approx(itch["lost"])
    assert list(dict.fromkeys(found.table["field"])) == ["all questions", "itch", "fever"]
    assert (itch["n_images"], itch["n_groups"], itch["n_columns"], fever["n_columns"]) == (30, 15, 3, 2)


def test_unknown_leaves_only_those_right_whose_answer_was_unknown(scored):
    """Unknown means acne to the planted model: it is right for the third that is acne, and wrong else."""
    found = ablate(scored / "run", load_checkpoint(scored / "planted"), n_resamples=20)
    test = pd.read_csv(scored / "manifest.csv").query("split == 'test'")
    lost = float((test["label"] != "acne").mean())
    assert row(found.table, "itch", "unknown")["lost"] == pytest.approx(lost)
    assert row(found.table, "itch")["n_answered"] == int(test["q.itch"].notna().sum())
    assert row(found.table, "itch", "unknown", "top_3_accuracy")["lost"] == 0.0  # of three targets


def test_nothing_changed_gives_the_runs_logits(scored):
    found = ablate(scored / "run", load_checkpoint(scored / "planted"), n_resamples=5)
    assert found.largest_difference < 1e-5


def test_both_photographs_of_a_case_get_one_answer(scored):
    """So top-1 lost by image is a multiple of two images over five permutations."""
    found = ablate(scored / "run", load_checkpoint(scored / "planted"), n_resamples=5, seed=3)
    assert row(found.table, "itch")["lost"] * 15 * 5 == pytest.approx(
        round(row(found.table, "itch")["lost"] * 15 * 5)
    )


def test_the_command_writes_a_table_and_says_the_order(scored, tmp_path):
    asked = ["ablate", str(scored / "run"), "--n-resamples", "50", "--out", str(tmp_path / "q.csv")]
    found = CliRunner().invoke(app, [*asked, "--checkpoint", str(scored / "planted")])
    assert found.exit_code == 0, found.output
    lines = [line.split()[0] for line in found.stdout.splitlines()[1:4]]
    assert lines == ["all", "itch", "fever"]
    twin = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert len(twin["table"]) == len(pd.read_csv(tmp_path / "q.csv")) == 12


def test_another_checkpoint_is_refused(scored, tmp_path):
    other = planted(tmp_path / "other", seed=1)
    found = CliRunner().invoke(app, ["ablate", str(scored / "run"), "--checkpoint", str(other)])
    assert found.exit_code == 3
    assert "another checkpoint than the run's" in found.output


def test_a_run_whose_embeddings_are_of_something_else_is_refused(scored, tmp_path):
    score(load_checkpoint(scored / "planted"), scored / "manifest.csv", settings=SMALL, out=tmp_path / "run")
    held = np.load(tmp_path / "run" / "embeddings.npy")
    held[:, 0] += 1e4
    np.save(tmp_path / "run" / "embeddings.npy", held)
    found = CliRunner().invoke(app, ["ablate", str(tmp_path / "run")])
    assert found.exit_code == 3
    assert "logits that differ by up to" in found.output
