"""Questions ablated on stored embeddings: a planted model of which one question alone matters."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from ddeval.cli import app
from ddeval.cli.verify import _with_questions
from ddeval.data.images import Preprocessing
from ddeval.models.backbones import backbone_config
from ddeval.models.checkpoint import load_checkpoint, write_artefact
from ddeval.models.fusion import Fusion
from ddeval.score import ablation
from ddeval.score.ablation import ablate
from ddeval.score.evaluate import evaluate
from ddeval.score.run import score
from ddeval.score.verify import Verification
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
    assert fever["lost"] == 0.0
    told = [fever["ci_low"], fever["ci_high"], fever["p_holm"]]
    assert np.isnan(told).all()  # no draw differs: no interval of no width, and no p-value
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


def test_a_questionnaire_of_one_question_has_that_question(scored, monkeypatch):
    """Beside the row of all questions, which says the same."""
    monkeypatch.setattr(ablation, "_fields", lambda checkpoint, rows: ["itch"])
    table = ablate(scored / "run", load_checkpoint(scored / "planted"), n_resamples=5).table
    assert table["field"].tolist() == ["all questions"] * 4 + ["itch"] * 4
    assert row(table, "itch")["lost"] == row(table, "all questions")["lost"]


def test_one_patient_has_no_p_value(scored, tmp_path):
    """Every resample is that patient again: what is lost stands alone."""
    lost = np.array([[1.0, 1.0], [1.0, 0.0]])
    table = ablation._table(lost, [("itch", "unknown")], np.zeros(2), np.random.default_rng(0), 20)
    assert table["lost"].tolist() == [1.0, 0.5]
    assert table[["ci_low", "ci_high", "p_holm"]].isna().all(axis=None)


def differences(run):
    """What verify says of the questions alone: each is the file, then the cell."""
    return [str(d) for d in _with_questions(Verification((), 0, ()), run, None).differences]


def test_what_the_questions_are_worth_is_made_again_by_verify(scored, tmp_path, capsys):
    """A changed digit is found; on another machine near ties may turn; without the checkpoint it is said."""
    run, table = tmp_path / "run", tmp_path / "run" / "questions-v0.csv"
    shutil.copytree(scored / "run", run)
    shutil.copytree(scored / "planted", tmp_path / "planted")
    evaluate(run, n_resamples=5, calibrators="none")
    asked = [
        "ablate",
        str(run),
        "--n-resamples",
        "20",
        "--seed",
        "2",
        "--checkpoint",
        str(tmp_path / "planted"),
    ]
    assert CliRunner().invoke(app, asked).exit_code == 0
    found = CliRunner().invoke(app, ["verify", str(run), "--json"])
    assert (found.exit_code, json.loads(found.stdout)["differences"]) == (0, [])

    text, stored = table.read_text(), pd.read_csv(table)
    for column, change in (("lost", 1e-6), ("p_holm", 0.01), ("n_answered", 1)):
        changed = stored.astype({column: float})
        changed.loc[changed["field"] == "itch", column] += change
        changed.to_csv(table, index=False)
        assert differences(run)[0].startswith(
            f"questions-v0.csv: {column} of itch permuted top_1_accuracy is"
        )

    settings = table.with_suffix(".json")
    settings.write_text(settings.read_text().replace('"machine": "', '"machine": "another '))
    for change, is_found in ((5e-5, False), (5e-3, True)):
        stored.assign(lost=stored["lost"] + change).to_csv(table, index=False)
        assert bool(differences(run)) == is_found
        assert "held to a hundredth of a point" in capsys.readouterr().err
    table.write_text(text)
    shutil.rmtree(tmp_path / "planted")
    assert differences(run) == []
    assert "questions-v0.csv was not computed again" in capsys.readouterr().err


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
