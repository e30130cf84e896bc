"""`ddeval audit` and `ddeval audit plan`: exit codes, files, and bad input said in a sentence."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ddeval import io
from ddeval.audit.plan import effort
from ddeval.cli import app
from ddeval.score.file_run import execute_file, prepare_file
from ddeval.score.foreign import read_file
from tests.audit_fixture import CLASSES, planted_run


def command(*args):
    return CliRunner().invoke(app, ["audit", *map(str, args)])


@pytest.fixture
def planted(tmp_path):
    return planted_run(tmp_path, n_cases=120)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    planted = planted_run(tmp_path_factory.mktemp("audited"), n_cases=120)
    return planted, command(planted.run, "--json")


def rerun(planted, *, name="again", **columns):
    """The run of the same answers under a changed manifest."""
    manifest = pd.read_csv(planted.manifest, dtype=str).assign(**columns)
    io.write_csv(planted.manifest, manifest)
    splits = manifest["split"].unique()
    job = prepare_file(
        read_file(planted.manifest.with_name("model.csv")),
        planted.manifest,
        runs=planted.manifest.parent / name,
        split=splits[0] if len(splits) == 1 else "all",
        other_class="other",
    )
    return execute_file(job)


def embedded(run, *, vectors=None):
    """Embeddings beside the predictions: noise, or the ones given."""
    n = len(pd.read_parquet(run / "predictions.parquet", columns=["image_id"]))
    held = np.random.default_rng(0).normal(size=(n, 6)) if vectors is None else vectors(n)
    np.save(run / "embeddings.npy", held.astype(np.float32))
    return run


def test_an_audit_ends_with_0_whatever_it_finds_and_leaves_its_tables(audited):
    planted, done = audited
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["n_disagreeing"] > 0
    folder = planted.run / "audit"
    issues = io.read_parquet(folder / "issues.parquet")[0]
    assert len(issues) == summary["n_images"]
    assert (issues["given_label"] != issues["predicted_label"]).sum() == summary["n_disagreeing"]
    assert json.loads((folder / "audit.json").read_text())["queue"] == summary["queue"]


def test_it_names_the_next_command(audited):
    planted, _ = audited
    done = command(planted.run)
    assert f"ddeval vet open {planted.run / 'audit'}\n" in done.stdout


def test_an_audit_does_not_replace_the_one_it_follows(audited):
    """Truth needs the frame the first queue was drawn from."""
    planted, _ = audited
    before = (planted.run / "audit" / "cases.parquet").read_bytes()
    done = command(planted.run, "--after", planted.run / "audit" / "queue.parquet")
    assert done.exit_code == 3
    assert f"--out {planted.run / 'audit'}-2" in done.output
    assert (planted.run / "audit" / "cases.parquet").read_bytes() == before


def test_opening_a_batch_again_says_what_stands_and_a_closed_one_is_refused(audited, tmp_path):
    planted, _ = audited
    store = ["--store", str(tmp_path / "vet.db")]
    asked = ["vet", "open", str(planted.run / "audit"), "--data", str(planted.manifest), *store]
    assert "batch audit: " in CliRunner().invoke(app, asked).stdout
    again = CliRunner().invoke(app, [*asked, "--reads", "3"]).stdout
    assert "batch audit is open already: nothing was changed" in again
    assert "2 readings each" in again
    (tmp_path / "c.yaml").write_text("Tinea:\n  class: tinea\n")
    served = CliRunner().invoke(app, ["vet", "serve", "--conditions", str(tmp_path / "c.yaml"),
                                      "--data", str(planted.manifest), *store])  # fmt: skip
    assert served.exit_code == 3  # before an evening of reading, not after it
    assert "labels in the data that are no class of the conditions file" in served.output
    CliRunner().invoke(app, [*asked, "--name", "later"])
    CliRunner().invoke(app, ["vet", "close", "later", *store])
    closed = CliRunner().invoke(app, ["vet", "close", "audit", *store]).stdout
    assert "batch audit is closed: 0/" in closed
    assert (
        "next     ddeval vet freeze audit later\n" in closed
    )  # one of them alone would lose the other's labels
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 3
    assert "--name audit-2" in done.output


def test_the_same_audit_gives_the_same_bytes(audited, tmp_path):
    planted, _ = audited
    first, second = (tmp_path / name / "audit" for name in ("a", "b"))
    for folder in (first, second):
        assert command(planted.run, "--out", folder).exit_code == 0
    files = sorted(path.name for path in first.iterdir())
    assert len(files) >= 8
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize(("what", "code"), [("issues", 1), ("leaks", 0), ("duplicates", 0)])
def test_fail_on_ends_with_1_only_when_there_is_something_of_it(audited, tmp_path, what, code):
    planted, _ = audited
    assert command(planted.run, "--fail-on", what, "--out", tmp_path).exit_code == code


def test_a_leak_found_by_embeddings_fails_on_leaks(planted):
    splits = np.where(np.arange(len(pd.read_csv(planted.manifest))) % 2, "train", "test")
    run = rerun(planted, split=splits, case_id=None, patient_id=None)

    def twins(n):
        vectors = np.random.default_rng(0).normal(size=(n, 6))
        vectors[1] = vectors[0]
        return vectors

    done = command(embedded(run, vectors=twins), "--split", "test", "--fail-on", "leaks")
    assert done.exit_code == 1, done.output
    assert "1 pairs: 1 across splits" in done.stdout


def test_train_is_refused_with_its_own_model_and_judged_by_folds(planted):
    run = rerun(planted, split="train")
    done = command(run)
    assert done.exit_code == 3
    assert "Pass --folds 5" in done.stderr
    assert command(run, "--as-given").exit_code == 0
    assert "no embeddings.npy" in command(run, "--folds", 3).stderr
    done = command(embedded(run), "--folds", 3, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["mix"]["ranked"] == 0.75  # train is ranked for gain


def test_more_folds_than_groups_are_named(planted):
    run = embedded(rerun(planted, split="train"))
    done = command(run, "--folds", 1000)
    assert done.exit_code == 3
    assert "number of groups (60)" in done.stderr


def test_folds_more_than_a_class_has_images_leave_that_class_unjudged_and_nothing_breaks(planted):
    labels = pd.read_csv(planted.manifest)["label"].to_numpy(copy=True)
    labels[labels == "tinea"] = "eczema"
    labels[:2] = "tinea"
    run = embedded(rerun(planted, split="train", label=labels))
    done = command(run, "--folds", 5)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("label", ["eczema", None], ids=["one class", "all classes"])
@pytest.mark.parametrize("start", [0, -30], ids=["no embedding", "30 without"])
def test_folds_that_cannot_judge_say_so(planted, label, start):
    """One class alone or no finite embedding: one line. A part without embeddings: counted and left out."""
    labels = pd.read_csv(planted.manifest)["label"] if label is None else label
    run = rerun(planted, split="train", label=labels)
    n = len(pd.read_csv(planted.manifest))

    def vectors(n):
        held = np.random.default_rng(0).normal(size=(n, 6))
        held[start:] = np.nan
        return held

    done = command(embedded(run, vectors=vectors), "--folds", 3)
    if label is None and start:
        assert done.exit_code == 0, done.output
        assert "not audited: 30" in done.stderr
        assert len(io.read_parquet(run / "audit" / "issues.parquet")[0]) == n - 30
    else:
        assert done.exit_code == 3, done.output
        assert f"no head for any of the {n} images" in done.stderr


def test_a_class_that_nobody_labels_is_listed_apart_and_has_no_health(planted):
    labels = pd.read_csv(planted.manifest)["label"].replace("other", "eczema")
    run = rerun(planted, label=labels)
    done = command(run)
    assert done.exit_code == 0, done.output
    off_topic = io.read_parquet(run / "audit" / "off_topic.parquet")[0]
    assert (off_topic["why"] == "likely other, which no label says").sum() > 5
    health = io.read_parquet(run / "audit" / "health.parquet")[0].set_index("class_name")
    assert health.loc["other", "n_images"] == 0
    assert np.isnan(health.loc["other", "label_quality"])


def test_classes_of_one_image_are_audited_and_hopeless_to_measure(planted):
    labels = np.full(len(pd.read_csv(planted.manifest)), "eczema", dtype=object)
    labels[:4] = CLASSES[1:]
    run = rerun(planted, label=labels, case_id=None)
    assert command(run).exit_code == 0
    done = command("plan", run / "audit", "--readers", 3, "--cases", 20)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("hopeless") >= 4


def test_one_class_alone_is_audited(planted):
    run = rerun(planted, label="eczema")
    done = command(run)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    "vectors",
    [
        lambda n: np.ones((n, 4)),
        lambda n: np.full((n, 4), np.nan),
        lambda n: np.zeros((n, 4)),
        lambda n: np.where(np.arange(n)[:, None] % 2, np.nan, np.random.default_rng(0).normal(size=(n, 4))),
    ],
    ids=["identical", "nan", "zero", "half nan"],
)
def test_embeddings_that_say_nothing_do_no_harm(planted, vectors):
    done = command(embedded(planted.run, vectors=vectors), "--json")
    assert done.exit_code == 0, done.output
    issues = io.read_parquet(planted.run / "audit" / "issues.parquet")[0]
    assert issues["label_quality"].between(0, 1).all()


def test_identical_embeddings_of_a_large_split_are_a_note_and_no_pairs(planted, monkeypatch):
    monkeypatch.setattr("ddeval.audit.duplicates.MAX_PAIRS", 1000)
    done = command(embedded(planted.run, vectors=lambda n: np.ones((n, 4))))
    assert done.exit_code == 0
    assert "are the features constant" in done.stderr
    assert "duplicates                  0 pairs" in done.stdout


def test_embeddings_of_other_rows_are_refused(planted):
    np.save(planted.run / "embeddings.npy", np.ones((3, 4), np.float32))
    done = command(planted.run)
    assert done.exit_code == 3
    assert "3 rows" in done.stderr


def test_images_without_a_label_are_counted_and_a_split_without_any_is_refused(planted):
    labels = pd.read_csv(planted.manifest)["label"].to_numpy(dtype=object, copy=True)
    labels[:7] = None
    done = command(rerun(planted, label=labels))
    assert done.exit_code == 0
    assert "images without a label, not audited: 7" in done.stderr
    done = command(rerun(planted, name="none", label=None), "--split", "test")
    assert done.exit_code == 3
    assert "no label" in done.stderr


def test_a_split_that_is_not_there_is_refused_with_those_that_are(planted):
    done = command(planted.run, "--split", "val")
    assert done.exit_code == 3
    assert "no image of split 'val' (test" in done.stderr


def test_runs_of_other_classes_or_images_are_not_combined(planted, tmp_path):
    other = planted_run(tmp_path / "other", n_cases=20, seed=1)
    done = command(planted.run, other.run)
    assert done.exit_code == 3
    assert "no prediction for image" in done.stderr


def test_two_checkpoints_are_combined_and_named(planted):
    table = pd.read_csv(planted.manifest.with_name("model.csv"))
    probs = table[list(CLASSES)].to_numpy() * 0.5 + 0.1
    second = planted.manifest.with_name("second.csv")
    io.write_csv(second, table.assign(**dict(zip(CLASSES, probs.T, strict=True))))
    run = execute_file(
        prepare_file(read_file(second), planted.manifest, runs=second.parent / "r", other_class="other")
    )
    done = command(planted.run, run, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["checkpoints"] == ["model", "second"]


@pytest.mark.parametrize("mix", [".5,.5", "a,b,c", ".5,.4,.2", "-1,1,1"])
def test_a_mix_that_is_no_three_shares_is_refused(planted, mix):
    done = command(planted.run, f"--mix={mix}")
    assert done.exit_code == 3
    assert "no three shares that sum to 1" in done.stderr


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    done = command(tmp_path / "nothing")
    assert done.exit_code == 3
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_plan_says_cases_hours_widths_errors_and_classes(audited):
    planted, _ = audited
    done = command("plan", planted.run / "audit", "--readers", 4, "--cases", 40, "--reads", 2, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["n_finished"] == effort(readers=4, cases=40, reads=2, repeats=0.05).n_finished == 68
    assert 0 < found["width_per_image"] < 0.5
    assert 0 < found["width_per_case"] < 0.5
    assert 0 < found["errors_expected_ranked"] <= found["errors_expected"]
    assert {row["class_name"] for row in found["classes"]} == set(CLASSES)
    said = command("plan", planted.run / "audit", "--readers", 4, "--cases", 40).stdout
    for word in ("finished cases    68", "hidden repeats", "points per image", "per case", "assumed"):
        assert word in said


def test_the_plan_finds_the_only_audit_of_a_project_and_lists_several(audited, monkeypatch):
    planted, _ = audited
    monkeypatch.chdir(planted.manifest.parent)
    assert command("plan", "--readers", 3, "--cases", 20).exit_code == 0
    command(planted.run, "--out", planted.run / "audit-more")
    done = command("plan", "--readers", 3, "--cases", 20)
    assert done.exit_code == 3
    assert "2 audits in runs" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--readers", 2], "2 readings and an adjudication need 3 readers, there are 2"),
        (["--readers", 9, "--cases", 1, "--reads", 9], "need 10 readers, there are 9"),
    ],
)
def test_an_evening_that_cannot_be_held_is_one_line(audited, args, message):
    planted, _ = audited
    done = command("plan", planted.run / "audit", *args)
    assert done.exit_code == 3
    assert message in done.stderr


def test_a_plan_without_an_audit_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Make one with: ddeval audit RUN" in command("plan").stderr
    assert "no cases.parquet" in command("plan", tmp_path).stderr


def test_an_audit_of_val_says_what_changing_it_does_to_the_choice_of_checkpoints(planted):
    run = rerun(planted, split="val")
    done = command(run)
    assert done.exit_code == 0, done.output
    assert "change which checkpoint is chosen" in done.stdout
    assert "change which checkpoint is chosen" in (run / "audit" / "report.html").read_text()
