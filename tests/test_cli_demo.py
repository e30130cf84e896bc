"""`ddeval demo`: the loop closed on drawn data, and readers who see what the page shows and nothing else."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from ddeval import io
from ddeval.cli import BAD_INPUT, app, loop
from ddeval.cli.loop import Plan, closed_loop, planted_accuracy
from ddeval.data.demo import read_truth
from ddeval.data.overlay import read_overlay
from ddeval.errors import InputError
from ddeval.score.predictions import read_predictions
from ddeval.vet.simulated import Reader, Shown, panel, true_verdicts
from ddeval.vet.store import Store

SMALL = Plan(
    n_patients=250, epochs=1, n_folds=2, n_train_queue=24, n_test_queue=24, n_readers=6, n_resamples=20
)
FORBIDDEN = ("label", "case_id", "image_id", "kind", "stratum", "reason", "predicted", "split")


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """The folder of a small loop, what it printed, and every page and photograph a reader was handed."""
    handed = []
    read = Reader.read

    def watched(self, screen, photographs, eyes):
        handed.append((self.code, dict(screen), photographs))
        return read(self, screen, photographs, eyes)

    out = tmp_path_factory.mktemp("demo") / "loop"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "read", watched)
        result = closed_loop(out, SMALL, date="2026-01-01", jobs=1)
    return out, result, handed


def test_both_systems_are_measured_three_ways_before_and_after(closed):
    out, result, _ = closed
    assert [(r["run"], r["is_retrained"]) for r in result["systems"]] == [
        ("demo", False), ("photos", False), ("demo-vetted", True), ("photos-vetted", True),
    ]  # fmt: skip
    for row in result["systems"]:
        assert row["vetted"]["ci_low"] <= row["vetted"]["value"] <= row["vetted"]["ci_high"]
        assert (
            row["planted"]["value"]
            == planted_accuracy(out / "runs" / row["run"], out / "data/manifest.csv")[0]
        )
    assert json.loads((out / "loop.json").read_text())["systems"] == result["systems"]


def test_the_planted_value_is_that_of_the_truth_table_by_hand(closed):
    """Over images of cases with a photograph of skin: is the surest target class the true one?"""
    out, result, _ = closed
    said = read_predictions(out / "runs/demo/predictions.parquet")
    truth = read_truth(out / "data/manifest.csv").set_index("image_id")
    target = [i for i, name in enumerate(said.class_names) if name != "other"]
    right = []
    for row, image in enumerate(said.frame.to_dict("records")):
        of_case = truth[truth["case_id"] == image["case_id"]]
        is_readable = (~of_case["is_off_topic"] & ~of_case["is_ungradable"]).any()
        true = of_case["true_label"].iloc[0]
        if image["split"] == "test" and is_readable and true != "other":
            surest = target[int(np.argmax(said.logits[row][target]))]
            right.append(said.class_names[surest] == true)
    assert result["systems"][0]["planted"] == {"value": pytest.approx(np.mean(right)), "n_images": len(right)}


def test_the_two_queues_stay_in_their_splits_and_only_that_of_train_is_learnt_from(closed):
    out, result, _ = closed
    assert [(q["split"], q["use"]) for q in result["queues"]] == [("test", "estimate"), ("train", "training")]
    for split in ("test", "train"):
        assert read_overlay(out / "labels" / f"{split}-v1.parquet").split == split
    learnt = {
        name: io.read_json(out / "models" / name / "config.json")["provenance"]["labels"]["version"]
        for name in ("demo", "photos", "demo-vetted", "photos-vetted")
    }
    assert learnt == {"demo": "v0", "photos": "v0", "demo-vetted": "train-v1", "photos-vetted": "train-v1"}


def test_every_training_label_was_judged_by_a_system_that_saw_neither_it_nor_its_patient(closed):
    out, _, _ = closed
    manifest = io.read_csv(out / "data/manifest.csv")
    judged = read_predictions(out / "folds/run/predictions.parquet").frame
    in_train = judged[judged["split"] == "train"]["image_id"]
    assert sorted(in_train) == sorted(manifest.loc[manifest["split"] == "train", "image_id"])
    for k in (1, 2):
        fold = io.read_csv(out / f"folds/fold-{k}/manifest.csv")
        learnt, held = (set(fold.loc[fold["split"] == s, "patient_id"]) for s in ("train", "test"))
        assert held
        assert not learnt & held


def test_a_reader_is_handed_what_the_page_shows_and_nothing_that_tells(closed):
    """No id, no label, no reason reaches whoever answers; pages say how many photographs there are."""
    out, _, handed = closed
    manifest = io.read_csv(out / "data/manifest.csv")
    ids = {*manifest["image_id"], *manifest["case_id"]}
    assert len(handed) > 4 * SMALL.n_test_queue * 0.9
    for _, screen, photographs in handed:
        text = json.dumps(screen)
        assert not any(f'"{word}"' in text for word in FORBIDDEN)
        assert not any(name in text for name in ids)
        assert len(photographs) == screen["n_photographs"]


def test_every_reading_is_an_event_of_the_store_read_twice_and_settled_by_a_third(closed):
    out, result, handed = closed
    store = Store(out / "readings.db")
    assert store.verify().is_intact
    with store.read() as connection:
        events = pd.read_sql_query("SELECT kind, case_id, actor, blind_level FROM events", connection)
    store.close()
    readings = events[events["kind"] == "reading"]
    assert set(readings["blind_level"]) == {"blind"}
    assert (readings.groupby("case_id")["actor"].nunique() == 2).all()
    assert len(readings) + (events["kind"] == "adjudication").sum() == len(handed)
    assert (events["kind"] == "adjudication").sum() == sum(q["n_adjudicated"] for q in result["queues"])


def test_the_page_shows_the_three_accuracies_and_says_synthetic(closed):
    out, result, _ = closed
    page = (out / "loop.html").read_text()
    assert "SYNTHETIC" in page
    assert "What vetting was worth" in page
    for row in result["systems"]:
        for kind in ("as_given", "vetted", "planted"):
            assert f"{100 * row[kind]['value']:.1f}\xa0%" in page


@pytest.mark.slow
def test_a_second_call_trains_and_reads_nothing_again(closed):
    out, result, _ = closed
    files = ["models/demo/best_model.pt", "labels/train-v1.parquet", "data/manifest.csv"]
    stamps = [(out / name).stat().st_mtime_ns for name in files]
    assert closed_loop(out, SMALL, date="2026-01-01", jobs=1) == result
    assert [(out / name).stat().st_mtime_ns for name in files] == stamps


def test_another_seed_does_not_go_on_in_the_same_folder(closed):
    out, _, _ = closed
    with pytest.raises(InputError, match="a loop with other settings"):
        closed_loop(out, SMALL._replace(seed=1), date="2026-01-01")


@pytest.mark.slow
def test_one_seed_gives_the_same_bytes(closed, tmp_path):
    """Numbers, weights, logits, labels and tables; the store's clock and the ledger of looks are outside."""
    out, result, _ = closed
    again = closed_loop(tmp_path / "loop", SMALL, date="2026-01-01", jobs=2)
    assert again == result
    assert (tmp_path / "loop/loop.json").read_bytes() == (out / "loop.json").read_bytes()
    for name in ("demo", "photos-vetted"):
        both = [
            torch.load(f / "models" / name / "best_model.pt", weights_only=True)
            for f in (out, tmp_path / "loop")
        ]
        assert all(torch.equal(both[0][key], both[1][key]) for key in both[0])
    for name in ("values", "differences", "loop", "loop_queues"):
        file = f"loop/{name}.parquet"
        assert (tmp_path / "loop" / file).read_bytes() == (out / file).read_bytes()
    for split in ("test", "train"):
        frames = [read_overlay(f / f"labels/{split}-v1.parquet").frame for f in (out, tmp_path / "loop")]
        pd.testing.assert_frame_equal(*frames)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == BAD_INPUT
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_dry_run_writes_nothing(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "loop"), "--dry-run"])
    assert "would draw 1,000 patients" in result.stderr
    assert not (tmp_path / "loop").exists()


def test_the_command_prints_the_table_and_json_alone(monkeypatch, closed, tmp_path):
    out, stored, _ = closed
    monkeypatch.setattr(loop, "closed_loop", lambda *_, **__: stored)
    shown = CliRunner().invoke(app, ["demo", "--out", str(out)])
    assert "planted truth" in shown.stdout
    assert "demo-vetted" in shown.stdout
    as_json = CliRunner().invoke(app, ["demo", "--out", str(out), "--json"])
    assert json.loads(as_json.stdout) == stored


def skin(disease: str) -> dict:
    import hashlib

    return {hashlib.sha256(name).hexdigest(): Shown(disease, sight) for name, sight in PHOTOGRAPHS.items()}


PHOTOGRAPHS = {b"one": "skin", b"two": "skin", b"paper": "off_topic", b"blur": "ungradable"}


def test_readers_err_as_often_as_stated():
    """200 first looks of 20 readers at one error rate: binomial sd 0.5 points."""
    readers, adjudicators = panel(20, error_rate=0.10, seed=0)
    eyes = skin("Eczema")
    answers = [reader.read({"n_photographs": 1}, [b"one"], eyes)[0] for reader in readers for _ in range(200)]
    named = [a.diagnoses[0] for a in answers if a.diagnoses]
    assert np.mean([name != "Eczema" for name in named]) == pytest.approx(0.10, abs=0.02)
    assert np.mean([a.exit == "cannot_tell" for a in answers]) == pytest.approx(0.02, abs=0.01)
    assert [a.error_rate for a in adjudicators] == [0.05, 0.05]


def test_what_shows_no_skin_is_told_apart():
    reader, eyes = Reader("a", 0.0, 0.0), skin("Eczema")
    assert reader.read({"n_photographs": 1}, [b"paper"], eyes)[0].exit == "off_topic"
    assert reader.read({"n_photographs": 2}, [b"paper", b"blur"], eyes)[0].exit == "poor_image"
    answer, details = reader.read({"n_photographs": 2}, [b"blur", b"two"], eyes)
    assert answer.diagnoses[0] == "Eczema"
    assert details["poor_photographs"] == [0]


def test_a_case_without_a_photograph_of_skin_has_no_true_verdict(tmp_path):
    rows = [
        ("1", "a", "Acne", "True", "False"),
        ("2", "a", "Acne", "False", "False"),
        ("3", "b", "Wart", "False", "True"),
    ]
    table = pd.DataFrame(rows, columns=["image_id", "case_id", "true_label", "is_off_topic", "is_ungradable"])
    table.assign(is_wrong="False").to_csv(tmp_path / "truth.csv", index=False)
    verdicts = true_verdicts(Path(tmp_path / "manifest.csv"))
    assert verdicts["a"] == "Acne"
    assert verdicts.isna()["b"]
