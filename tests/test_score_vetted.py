"""Accuracy against the vetted reference: from a queue through the store to `ddeval truth`."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ddeval import io
from ddeval.cli import app
from ddeval.cli.auditing import audit_runs, measured
from ddeval.cli.verify import _with_readings
from ddeval.data.manifest import read_manifest
from ddeval.errors import InputError
from ddeval.score.predictions import read_predictions
from ddeval.score.verify import Verification
from ddeval.vet import reading
from ddeval.vet.consensus import Answer
from ddeval.vet.export import freeze
from ddeval.vet.store import Store
from tests.audit_fixture import CLASS_OF, CLASSES, frozen_labels, planted_run, read_queue


@pytest.fixture(autouse=True)
def no_dwell(monkeypatch):
    monkeypatch.setattr(reading, "DWELL_SECONDS", 0.0)


def vetted(folder, *, n_cases, n_queue, reads=None, seed=0):
    """A run audited, read and frozen."""
    planted = planted_run(folder, n_cases=n_cases, seed=seed)
    audited = audit_runs([planted.run], n_queue=n_queue)
    store = Store(folder / "vet.db")
    read_queue(planted, audited.folder / "queue.parquet", store, reads=reads)
    frozen_labels(planted, store, folder / "labels")
    store.close()
    return planted


def cell(result, metric="top_1_accuracy", rule="strict", unit="image"):
    (row,) = (e for e in result["estimates"] if (e["metric"], e["rule"], e["unit"]) == (metric, rule, unit))
    return row


def right_by_case(planted):
    """Share of cases whose mean logit over the targets names the true class, by hand."""
    predictions = read_predictions(planted.run / "predictions.parquet")
    means = pd.DataFrame(predictions.logits).groupby(predictions.frame["case_id"].to_numpy()).mean()
    truth = np.array([CLASSES.index(planted.true_label[c]) for c in means.index])
    is_target = truth < len(CLASSES) - 1
    return (means.to_numpy()[:, :-1].argmax(axis=1) == truth)[is_target].mean()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every case read by readers who are always right."""
    before, reading.DWELL_SECONDS = reading.DWELL_SECONDS, 0.0
    planted = vetted(tmp_path_factory.mktemp("whole"), n_cases=60, n_queue=70)
    reading.DWELL_SECONDS = before
    return planted, measured(planted.run, overlays=planted.manifest.parent / "labels")


def test_a_split_read_whole_by_perfect_readers_gives_the_planted_accuracy(whole):
    planted, result = whole
    assert result["n_read"] == result["n_cases"] == 60
    assert cell(result)["value"] == pytest.approx(planted.right["is_right"].mean())
    assert cell(result, unit="case")["value"] == pytest.approx(right_by_case(planted))
    assert cell(result, rule="lenient")["value"] == pytest.approx(cell(result)["value"])


def test_the_number_on_given_labels_is_lower_and_the_corrected_one_is_the_truth_when_all_is_read(whole):
    planted, result = whole
    assert result["as_given"] < result["corrected_where_vetted"]
    assert result["corrected_where_vetted"] == pytest.approx(planted.right["is_right"].mean())


def test_errors_left_are_none_when_every_case_is_read(whole):
    planted, result = whole
    labels = pd.read_csv(planted.manifest).drop_duplicates("case_id").set_index("case_id")["label"]
    n_wrong = int((labels != labels.index.map(planted.true_label)).sum())
    assert result["errors_left"]["n_found"] == n_wrong
    assert result["errors_left"]["left"] == pytest.approx(0, abs=1e-6)
    assert result["errors_left"]["share"] == pytest.approx(n_wrong / 60)


def test_cases_that_a_checkpoint_nominated_itself_are_not_corrected_in_its_favour(whole):
    """Dropping its own nominations can only lose corrections, each of which could have helped it."""
    _, result = whole
    low, high = result["as_given"], result["corrected_where_vetted"]
    assert low <= result["corrected_without_own_nominations"] < high


def doubtful(rng, label):
    """Wrong on 8 %, and 15 % cannot be told."""
    if rng.random() < 0.15:
        return Answer(exit="cannot_tell")
    wrong = CLASSES[int(rng.integers(len(CLASSES)))]
    return Answer((wrong if rng.random() < 0.08 else label,))


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A third of the cases read by readers who err."""
    before, reading.DWELL_SECONDS = reading.DWELL_SECONDS, 0.0
    planted = vetted(tmp_path_factory.mktemp("part"), n_cases=300, n_queue=110, reads=doubtful, seed=3)
    reading.DWELL_SECONDS = before
    return planted, measured(planted.run, overlays=planted.manifest.parent / "labels")


def test_readers_who_err_leave_the_planted_accuracy_inside_the_interval(part):
    planted, result = part
    for unit, truth in (("image", planted.right["is_right"].mean()), ("case", right_by_case(planted))):
        row = cell(result, unit=unit)
        assert row["ci_low"] <= truth <= row["ci_high"]
        assert row["worst_case"] < row["value"] < row["best_case"]
    assert result["reader_error"]["n_pairs"] > 50
    assert cell(result)["uncorrected"] < cell(result)["value"]
    assert cell(result, rule="lenient")["uncorrected"] == cell(result, rule="lenient")["value"]
    assert result["without_verdict"]["cannot_tell"]["n_cases"] > 0
    assert result["reference"]["readers"] == ["ann", "bob", "cleo"]


def test_a_second_batch_narrows_the_interval_and_keeps_the_truth(part):
    planted, result = part
    folder = planted.manifest.parent
    first = planted.run / "audit"
    more = audit_runs(
        [planted.run], n_queue=100, earlier=[first / "queue.parquet"], seed=1, out=planted.run / "audit-2"
    )
    items = more.findings.queue.items
    assert not set(items["case_id"]) & set(io.read_parquet(first / "queue.parquet")[0]["case_id"])
    store = Store(folder / "vet.db")
    read_queue(planted, more.folder / "queue.parquet", store, name="second", reads=doubtful, seed=1)
    frozen_labels(planted, store, folder / "both", batches=("queue", "second"))
    store.close()
    both = measured(planted.run, audits=[first, more.folder], overlays=folder / "both")
    row = cell(both)
    assert both["n_read"] > result["n_read"]
    assert row["std_error"] < cell(result)["std_error"]
    assert row["ci_low"] <= planted.right["is_right"].mean() <= row["ci_high"]


def test_readings_of_another_queue_are_no_sample_of_this_one(part, tmp_path):
    """An audit that is made again draws anew; its frame says nothing of the cases that were read."""
    planted, _ = part
    again = audit_runs([planted.run], n_queue=60, seed=7, out=tmp_path / "audit")
    with pytest.raises(InputError, match=r"in the queue, which was read \(\d+ such\).*--audit"):
        measured(planted.run, audits=[again.folder], overlays=planted.manifest.parent / "labels")


def test_a_patient_who_withdrew_leaves_the_estimate_and_does_not_stop_it(tmp_path):
    planted = planted_run(tmp_path, n_cases=30)
    audited = audit_runs([planted.run], n_queue=30)
    store = Store(tmp_path / "vet.db")
    read_queue(planted, audited.folder / "queue.parquet", store)
    found = CliRunner().invoke(
        app,
        ["data", "withdraw", "p0003", "--manifest", str(planted.manifest), "--runs", str(tmp_path / "runs"),
         "--store", str(tmp_path / "vet.db")],
    )  # fmt: skip
    assert "2 cases were taken from the readers" in found.stdout
    from ddeval.score.file_run import execute_file, prepare_file
    from ddeval.score.foreign import read_file

    table = pd.read_csv(tmp_path / "model.csv")
    io.write_csv(tmp_path / "model.csv", table[~table["image_id"].str[:5].isin(["c0006", "c0007"])])
    file = read_file(tmp_path / "model.csv")
    run = execute_file(prepare_file(file, planted.manifest, runs=tmp_path / "again", other_class="other"))
    freeze(store, ["queue"], manifest=read_manifest(planted.manifest), class_of=CLASS_OF,
           folder=tmp_path / "labels", may_lack=True)  # fmt: skip
    store.close()
    result = measured(run, audits=[audited.folder], overlays=tmp_path / "labels")
    assert (result["n_gone"], result["n_cases"], result["n_read"]) == (2, 28, 28)
    left = planted.right[~planted.right["case_id"].isin(["c0006", "c0007"])]
    assert cell(result)["value"] == pytest.approx(left["is_right"].mean())


def cannot_always_tell(rng, label):
    """Never wrong, and 15 % cannot be told."""
    return Answer(exit="cannot_tell") if rng.random() < 0.15 else Answer((label,))


def test_a_reader_who_cannot_tell_is_not_in_error(tmp_path):
    """A class against "cannot tell" is no disagreement: readers who are never wrong need no correction."""
    planted = vetted(tmp_path, n_cases=80, n_queue=95, reads=cannot_always_tell)
    result = measured(planted.run, overlays=tmp_path / "labels")
    assert result["reference"]["rules"]["adjudicated"] > 10
    error = result["reader_error"]
    assert (error["disagreement"], error["reader"], error["miss"]) == (0, 0, 0)
    frame, metadata = io.read_parquet(tmp_path / "labels" / "test-v1.parquet")
    by_case = frame.drop_duplicates("case_id").set_index("case_id")
    said = by_case["first_answers"].map(lambda answers: "cannot_tell" not in answers)
    assert error["n_pairs"] == said.sum() < 80
    named = [c for c, labels in by_case["labels"].items() if len(labels)]
    right = planted.right[planted.right["case_id"].isin(named)]["is_right"]
    assert cell(result)["value"] == pytest.approx(right.mean())

    old = tmp_path / "old.parquet"  # frozen before the column was written
    io.write_parquet(old, frame.drop(columns="first_answers"), metadata=metadata)
    with pytest.raises(InputError, match=r"cases on which readers differ.*vet freeze"):
        measured(planted.run, labels=str(old), overlays=tmp_path / "labels")
    agreed = frame[frame["rule"] == "agreed"].drop(columns="first_answers")
    io.write_parquet(old, agreed, metadata=metadata)
    again = measured(planted.run, labels=str(old), overlays=tmp_path / "labels")
    assert (
        again["reader_error"]["n_pairs"]
        == (by_case["rule"].eq("agreed") & by_case["labels"].map(len).gt(0)).sum()
    )


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0.0, 0.08])
def test_readers_who_cannot_always_tell_do_not_move_the_value(tmp_path, wrong):
    """40 splits through the store; sd of one error is .02, that of their mean .003."""
    errors, held = [], 0
    for seed in range(40):
        folder = tmp_path / str(seed)

        def reads(rng, label):
            others = [name for name in CLASSES if name != label]
            if rng.random() < 0.15:
                return Answer(exit="cannot_tell")
            return Answer((str(rng.choice(others)) if rng.random() < wrong else label,))

        planted = vetted(folder, n_cases=400, n_queue=160, reads=reads, seed=seed)
        row = cell(measured(planted.run, overlays=folder / "labels"))
        truth = planted.right["is_right"].mean()
        errors.append(row["value"] - truth)
        held += row["ci_low"] <= truth <= row["ci_high"]
    print(f"wrong {wrong}: bias {np.mean(errors):.4f}, covered {held} of 40")
    assert abs(np.mean(errors)) < 0.009
    assert held >= 36


def test_truth_of_another_run_needs_the_audit_the_cases_came_from(part, tmp_path):
    """A worse model on the same cases is measured by the same verdicts."""
    planted, _ = part
    folder = planted.manifest.parent
    table = pd.read_csv(folder / "model.csv")
    probs = table[list(CLASSES)].to_numpy()
    probs = 0.2 * probs + 0.8 * np.roll(probs, 1, axis=1)
    other = folder / "worse.csv"
    io.write_csv(other, table.assign(**dict(zip(CLASSES, probs.T, strict=True))))
    from ddeval.score.file_run import execute_file, prepare_file
    from ddeval.score.foreign import read_file

    run = execute_file(
        prepare_file(read_file(other), planted.manifest, runs=folder / "runs", other_class="other")
    )
    with pytest.raises(InputError, match=r"no cases\.parquet"):
        measured(run, overlays=folder / "labels")
    found = measured(run, audits=[planted.run / "audit"], overlays=folder / "labels")
    assert cell(found)["value"] < 0.5
    assert found["corrected_without_own_nominations"] is None


def test_a_reader_who_differs_from_all_others_corrects_nothing(tmp_path, monkeypatch):
    """All blind pairs differ, as with no equally good readers: a made-up error would move the value."""
    planted = planted_run(tmp_path, n_cases=24)
    audited = audit_runs([planted.run], n_queue=24)
    turns = iter(range(10**6))

    def reads(rng, label):
        shift = int(next(turns) < 24)  # ann reads first; bob and cleo are right
        return Answer((CLASSES[(CLASSES.index(label) + shift) % len(CLASSES)],))

    store = Store(tmp_path / "vet.db")
    read_queue(planted, audited.folder / "queue.parquet", store, reads=reads)
    frozen_labels(planted, store, tmp_path / "labels")
    store.close()
    monkeypatch.chdir(tmp_path)
    result = measured(planted.run)
    assert cell(result)["value"] == cell(result)["uncorrected"]
    assert cell(result)["value"] == pytest.approx(planted.right["is_right"].mean())
    said = CliRunner().invoke(app, ["truth", str(planted.run)]).stdout
    assert "reader error: unknown; two readers name different classes on 100.0 %" in said


def test_the_command_prints_the_reference_the_interval_and_the_biased_number_named_so(part, monkeypatch):
    planted, result = part
    monkeypatch.chdir(planted.manifest.parent)
    done = CliRunner().invoke(app, ["truth", str(planted.run), "--labels", "v1"])
    assert done.exit_code == 0, done.output
    assert "accuracy against the vetted reference" in done.output
    assert f"{100 * cell(result)['value']:.1f} %" in done.output
    assert "biased: only some labels were checked" in done.output
    assert "of cases that readers gave a class" in done.output
    as_json = CliRunner().invoke(app, ["truth", str(planted.run), "--json"])
    assert json.loads(as_json.stdout)["n_read"] == result["n_read"]


def test_truth_is_verified_under_its_own_labels_when_later_ones_are_frozen(tmp_path):
    """The last overlay is what `ddeval truth` takes when nothing is said; it is another one next month."""
    planted = vetted(tmp_path, n_cases=20, n_queue=20)
    result = measured(planted.run, overlays=tmp_path / "labels")
    assert result["made_from"]["labels"] == "v1"
    frame, metadata = io.read_parquet(tmp_path / "labels" / "test-v1.parquet")
    later = metadata | {"overlay_version": "v2"}
    io.write_parquet(tmp_path / "labels" / "test-v2.parquet", frame[:10], metadata=later)
    found = _with_readings(Verification(("v1",), 0, ()), planted.run, None)
    assert found.n_cells > 50
    assert found.differences == ()


def test_without_frozen_labels_the_message_says_how_to_get_them(tmp_path, monkeypatch):
    planted = planted_run(tmp_path, n_cases=30)
    audit_runs([planted.run], n_queue=20)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["truth", str(planted.run)])
    assert done.exit_code == 3
    assert "ddeval vet freeze" in done.output


def test_histology_is_never_read_and_counts_with_its_own_label(tmp_path):
    """Its cases are in no queue, and the reference there is the label, whatever the model says."""
    planted = planted_run(tmp_path, n_cases=80)
    manifest = pd.read_csv(planted.manifest, dtype=str)
    is_locked = manifest["case_id"] < "c0030"
    manifest["label_basis"] = np.where(is_locked, "histology", "single")
    io.write_csv(planted.manifest, manifest)
    from ddeval.score.file_run import execute_file, prepare_file
    from ddeval.score.foreign import read_file

    file = read_file(tmp_path / "model.csv")
    run = execute_file(prepare_file(file, planted.manifest, runs=tmp_path / "again", other_class="other"))
    audited = audit_runs([run], n_queue=60)
    items, frame = audited.findings.queue
    assert not items["case_id"].isin(manifest.loc[is_locked, "case_id"]).any()
    assert (frame.loc[frame["case_id"] < "c0030", ["stratum"]] == "locked").all(axis=None)
    store = Store(tmp_path / "vet.db")
    read_queue(planted, audited.folder / "queue.parquet", store)
    frozen_labels(planted, store, tmp_path / "labels")
    store.close()
    found = measured(run, overlays=tmp_path / "labels")
    assert found["reference"]["n_locked"] == 30
    assert found["n_read"] == 80  # 50 read, 30 known
    given = manifest.drop_duplicates("case_id").set_index("case_id")["label"]
    truth = {c: given[c] if c < "c0030" else planted.true_label[c] for c in given.index}
    predictions = read_predictions(run / "predictions.parquet")
    answer = [CLASSES[k] for k in predictions.logits[:, :-1].argmax(axis=1)]
    named = [truth[c] for c in predictions.frame["case_id"]]
    right = np.array([a == t for a, t in zip(answer, named, strict=True)])
    is_target = np.array(named) != "other"
    assert cell(found)["value"] == pytest.approx(right[is_target].mean())


def test_verify_reads_the_verdicts_again_and_finds_a_changed_digit(whole, monkeypatch):
    planted, _ = whole
    monkeypatch.chdir(planted.manifest.parent)
    path = planted.run / "labels-v1" / "truth.json"
    assert CliRunner().invoke(app, ["score", str(planted.run), "--n-resamples", "2"]).exit_code == 0
    done = CliRunner().invoke(app, ["verify", str(planted.run), "--json"])
    assert json.loads(done.stdout)["differences"] == []
    before = path.read_text()
    value = json.loads(before)["estimates"][0]["value"]
    path.write_text(before.replace(str(value), str(value + 1e-4), 1))
    done = CliRunner().invoke(app, ["verify", str(planted.run), "--json"])
    path.write_text(before)
    assert done.exit_code == 1
    assert [d["cell"] for d in json.loads(done.stdout)["differences"]] == ["estimates[0].value"]
