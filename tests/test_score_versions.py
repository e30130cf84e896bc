"""Checkpoints under each version of the labels, and beside the readers, on the page of a comparison."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ddeval import io
from ddeval.cli import app
from ddeval.cli.auditing import audit_runs
from ddeval.score.comparison import compared
from ddeval.score.evaluate import evaluate
from ddeval.score.file_run import execute_file, prepare_file
from ddeval.score.foreign import read_file
from ddeval.score.joined import join
from ddeval.score.verify_comparison import verify_comparison
from ddeval.score.versions import readers_table, versions_table
from ddeval.vet import reading
from ddeval.vet.consensus import Answer
from ddeval.vet.store import Store
from tests.audit_fixture import CLASSES, frozen_labels, planted_run, read_queue


def second_run(planted, folder):
    """Another model's answers on the same images: each row of the first's rolled by its image's number."""
    table = pd.read_csv(folder / "model.csv")
    rng = np.random.default_rng(3)
    probs = table[list(CLASSES)].to_numpy() * rng.uniform(0.3, 1.0, (len(table), len(CLASSES)))
    table[list(CLASSES)] = probs / probs.sum(axis=1, keepdims=True)
    io.write_csv(folder / "second.csv", table)
    job = prepare_file(
        read_file(folder / "second.csv"), planted.manifest, runs=folder / "runs", other_class="other"
    )
    return execute_file(job)


@pytest.fixture(scope="module")
def vetted(tmp_path_factory):
    """Two runs scored under v0 and v1; the first's audit chose the cases, two readers read them."""
    before, reading.DWELL_SECONDS = reading.DWELL_SECONDS, 0.0
    folder = tmp_path_factory.mktemp("vetted")
    planted = planted_run(folder, n_cases=120)
    runs = [planted.run, second_run(planted, folder)]
    audited = audit_runs([planted.run], n_queue=60, mix=(0.5, 0.45, 0.05))
    store = Store(folder / "vet.db")

    def reads(rng, label):
        """Right in four of five, with a second thought."""
        other = CLASSES[int(rng.integers(4))]
        names = (label, other) if rng.random() < 0.8 else (other, label)
        return Answer(tuple(dict.fromkeys(names)))

    read_queue(planted, audited.folder / "queue.parquet", store, reads=reads)
    overlay = frozen_labels(planted, store, folder / "labels")
    store.close()
    reading.DWELL_SECONDS = before
    for run in runs:
        for labels in (None, overlay):
            evaluate(run, labels, n_resamples=20)
    return folder, runs, overlay


def table_of(vetted):
    _, runs, overlay = vetted
    return versions_table(join(runs), [overlay], audits=[runs[0] / "audit"], n_resamples=20)


def cell(table, **wanted):
    at = np.logical_and.reduce([table[name] == value for name, value in wanted.items()])
    (row,) = table[at].to_dict("records")
    return row


def test_the_values_are_those_each_run_has_under_that_version(vetted):
    _, runs, _ = vetted
    table = table_of(vetted)
    for run, name in zip(runs, ("model", "second"), strict=True):
        for version in ("v0", "v1"):
            told = io.read_json(run / f"labels-{version}" / "metrics.json")["metrics"]
            for metric in ("top_1_accuracy", "top_3_accuracy"):
                row = cell(table, run=name, labels=version, metric=metric)
                assert row["value"] == pytest.approx(told[metric]["value"])
                assert row["n_images"] == told[metric]["n_images"]
                assert row["ci_low"] <= row["value"] <= row["ci_high"]


def test_a_number_has_the_interval_it_has_in_the_table_of_the_round(vetted):
    _, runs, _ = vetted
    joined = join(runs)
    values = compared(joined, baseline=None, n_resamples=20).values
    table = table_of(vetted)
    for run in joined.names:
        there = cell(values, run=run, metric="top_1_accuracy", subset="all")
        here = cell(table, run=run, labels="v0", metric="top_1_accuracy")
        for name in ("value", "ci_low", "ci_high"):
            assert here[name] == pytest.approx(there[name]), (run, name)


def test_what_a_checkpoint_proposed_alone_keeps_its_given_label_in_its_own_left_out_number(vetted):
    _, runs, overlay = vetted
    table = table_of(vetted)
    items = io.read_parquet(runs[0] / "audit" / "queue.parquet")[0]
    own = set(items.loc[(items["kind"] == "ranked") & (items["proposers"] == "model"), "case_id"])
    assert own
    plain, held = join(runs), join(runs, labels=str(overlay))
    vetted_label = dict(zip(held.image_ids, held.labels, strict=True))
    other = CLASSES.index("other")
    hits = []
    for i, image in enumerate(plain.image_ids):
        label = plain.labels[i] if plain.case_ids[i] in own else vetted_label.get(image)
        if label is not None and label != other:
            hits.append(np.delete(plain.pred_probs["model"][i], other).argmax() == label)
    row = cell(table, run="model", labels="v1", metric="top_1_accuracy")
    assert row["left_out"] == pytest.approx(np.mean(hits))
    assert row["left_out"] < row["value"]  # the proposer's own disagreements were corrected in its favour
    assert np.isnan(cell(table, run="second", labels="v1", metric="top_1_accuracy")["left_out"])
    assert table.loc[table["labels"] == "v0", "left_out"].isna().all()


def test_a_reader_is_held_against_the_others_and_a_checkpoint_against_the_same_panels(vetted):
    """Case 1 is read acne, acne, tinea; case 2 by one reader and an exit, so by nobody else."""
    _, runs, _ = vetted
    joined = join(runs)
    one, two = list(dict.fromkeys(joined.case_ids))[:2]
    said = [(one, "a", ["acne"]), (one, "b", ["acne", "tinea"]), (one, "c", ["tinea", "acne"])]
    said += [(two, "a", ["acne"]), (two, "b", [])]
    readings = pd.DataFrame(said, columns=["case_id", "reader", "answers"])
    table = readers_table(joined, readings, n_resamples=5)
    top = {(row["reader"], row["metric"]): (row["value"], row["n_cases"]) for row in table.to_dict("records")}
    assert top["a", "top_1_accuracy"] == (0.5, 1)  # the others are split: half
    assert top["b", "top_1_accuracy"] == (0.5, 1)
    assert top["c", "top_1_accuracy"] == (0.0, 1)  # both others say acne
    assert top["a", "top_3_accuracy"] == (0.5, 1)
    assert top["b", "top_3_accuracy"] == (1.0, 1)
    assert top["c", "top_3_accuracy"] == (1.0, 1)

    assert top["all readers", "top_1_accuracy"] == (pytest.approx((0.5 + 0.5 + 0.0) / 3), 1)

    at = joined.case_ids == one
    mean = np.log(joined.pred_probs["model"][at]).mean(axis=0)
    answer = CLASSES[int(mean.argmax())]
    panels = [("acne", "tinea"), ("acne", "tinea"), ("acne", "acne")]
    by_hand = np.mean([panel.count(answer) / 2 for panel in panels])
    assert top["model", "top_1_accuracy"] == (pytest.approx(by_hand), 1)


def test_readings_of_nobody_twice_are_undefined_with_their_n(vetted):
    joined = join(vetted[1])
    alone = pd.DataFrame({"case_id": [joined.case_ids[0]], "reader": ["a"], "answers": [["acne"]]})
    table = readers_table(joined, alone, n_resamples=5)
    assert table["value"].isna().all()
    assert (table["n_cases"] == 0).all()


def test_without_a_shared_overlay_there_is_no_column(vetted, tmp_path):
    _, runs, _ = vetted
    assert len(versions_table(join(runs), [], n_resamples=5)["labels"].unique()) == 1


def test_the_page_shows_versions_and_readers_and_verifies(vetted, tmp_path, monkeypatch):
    _, runs, _ = vetted
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "page.html"
    result = CliRunner().invoke(
        app, ["compare", *map(str, runs), "--out", str(out), "--n-resamples", "20"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    page = re.sub(r"<wbr>", "", out.read_text())
    assert "v1, own proposals left out" in page
    round_1, single = (
        page.split(f'<table id="{id}"')[1].split("</table>")[0] for id in ("round-1-table", "readers-table")
    )
    assert "all readers" in round_1
    assert "ann" not in round_1
    assert {"all readers", "ann", "bob", "model", "second"} <= set(re.findall(r"[\w ]+", single))
    assert "Human readers: not available" not in page
    assert verify_comparison(tmp_path / "page").differences == ()

    for name, column in (("versions", "left_out"), ("readers", "value")):
        table = io.read_parquet(tmp_path / "page" / f"{name}.parquet")[0]
        io.write_parquet(tmp_path / "page" / f"{name}.parquet", table.assign(**{column: 0.5}))
    found = verify_comparison(tmp_path / "page").differences
    assert {Path(difference.file).name for difference in found} == {"versions.parquet", "readers.parquet"}
