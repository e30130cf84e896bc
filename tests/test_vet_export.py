"""From readings to a frozen overlay, and from the overlay to the labels of a manifest."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from ddeval import io, tables
from ddeval.cli import app
from ddeval.data.manifest import with_cases
from ddeval.data.overlay import apply_overlay, changes, find_overlay, read_overlay, soft_labels
from ddeval.errors import InputError
from ddeval.vet import reading
from ddeval.vet.batches import close_batch, open_batch
from ddeval.vet.consensus import Answer
from ddeval.vet.export import as_source, freeze
from ddeval.vet.reading import next_case, record_reading, set_aside
from ddeval.vet.store import Store

CLASS_OF = {"eczema": "eczema", "psoriasis": "psoriasis", "tinea": "tinea"}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "DWELL_SECONDS", 0.0)
    store = Store(tmp_path / "vet.db")
    yield store
    store.close()


@pytest.fixture
def manifest():
    """Four cases of two photographs each, all labelled eczema."""
    return pd.DataFrame(
        {
            "image_id": [f"c{i}-{k}" for i in range(4) for k in range(2)],
            "case_id": [f"c{i}" for i in range(4) for _ in range(2)],
            "label": "eczema",
            "split": "test",
        }
    )


def read_batch_with(store, manifest, answers, *, name="b", split="test"):
    """Two readers give `answers[case]` (answer, details) to every case; the batch is closed."""
    queue = pd.DataFrame({"case_id": sorted(answers), "kind": "random", "stratum": "s"})
    queue = queue.assign(inclusion_probability=1.0, given_label="eczema", label_basis="single")
    batch = open_batch(store, queue, name=name, split=split, seed=0, manifest_sha256="m")
    for reader in ("ann", "bob"):
        while (screen := next_case(store, batch, reader)) is not None:
            answer, details = answers[screen.case_id]
            if answer is None:
                set_aside(store, batch, reader, screen.nonce, "report", reason="a face")
            else:
                record_reading(store, batch, reader, screen.nonce, answer, details=details)
    close_batch(store, name, actor="admin")


ANSWERS = {
    "c0": (Answer(("eczema",)), {}),
    "c1": (Answer(("psoriasis", "eczema")), {"poor_photographs": ["c1-1"]}),
    "c2": (Answer(("tinea",)), {}),
    "c3": (Answer(exit="off_topic"), {}),
}


def frozen(store, manifest, folder, batches=("b",)):
    return freeze(store, batches, manifest=manifest, class_of=CLASS_OF, folder=folder)


def test_a_case_expands_to_its_photographs_confirmed_ones_too(store, manifest, tmp_path):
    read_batch_with(store, manifest, ANSWERS)
    overlay = read_overlay(frozen(store, manifest, tmp_path))
    tables.check(overlay.frame, tables.LABELS, where="overlay")
    assert overlay.frame.set_index("image_id")["outcome"].to_dict() == {
        "c0-0": "keep",
        "c0-1": "keep",
        "c1-0": "compatible",
        "c1-1": "poor_image",
        "c2-0": "relabel",
        "c2-1": "relabel",
        "c3-0": "off_topic",
        "c3-1": "off_topic",
    }
    assert (overlay.version, overlay.split) == ("v1", "test")
    assert overlay.metadata["head_hash"] == store.verify().head


def test_the_manifest_takes_vetted_labels_and_loses_those_it_cannot_have(store, manifest, tmp_path):
    read_batch_with(store, manifest, ANSWERS)
    before = manifest.copy()
    applied = apply_overlay(manifest, read_overlay(frozen(store, manifest, tmp_path)))
    assert applied.set_index("image_id")["label"].dropna().to_dict() == {
        "c0-0": "eczema",
        "c0-1": "eczema",
        "c1-0": "eczema",
        "c2-0": "tinea",
        "c2-1": "tinea",
    }
    pd.testing.assert_frame_equal(manifest, before)


def test_soft_labels_carry_the_differential(store, manifest, tmp_path):
    read_batch_with(store, manifest, ANSWERS)
    weights = soft_labels(read_overlay(frozen(store, manifest, tmp_path)))
    assert weights["c1-0"] == pytest.approx({"psoriasis": 2 / 3, "eczema": 1 / 3}, abs=1e-6)
    assert "c3-0" not in weights
    assert "c1-1" not in weights


def test_freezing_twice_writes_once_and_new_readings_make_a_new_number(store, manifest, tmp_path):
    read_batch_with(store, manifest, {k: ANSWERS[k] for k in ("c0", "c2")})
    first = frozen(store, manifest, tmp_path)
    assert frozen(store, manifest, tmp_path) == first
    read_batch_with(store, manifest, {k: ANSWERS[k] for k in ("c1", "c3")}, name="b2")
    second = frozen(store, manifest, tmp_path, ("b", "b2"))
    assert (first.stem, second.stem) == ("test-v1", "test-v2")
    diff = changes(read_overlay(first), read_overlay(second))
    assert set(diff["image_id"]) == {"c1-0", "c1-1", "c3-0", "c3-1"}
    assert find_overlay("v2", split="test", folder=tmp_path) == second
    with pytest.raises(InputError, match="expected one of v0, test-v1, test-v2"):
        find_overlay("v9", split="test", folder=tmp_path)


def test_photographs_without_a_case_are_cases_of_their_own():
    manifest = pd.DataFrame({"image_id": ["a", "b", "c"], "label": "x"})
    assert list(with_cases(manifest)["case_id"]) == ["a", "b", "c"]
    some = with_cases(manifest.assign(case_id=["k", None, "k"]))
    assert list(some["case_id"]) == ["k", "b", "k"]


def test_the_same_readings_freeze_to_the_same_bytes(store, manifest, tmp_path):
    read_batch_with(store, manifest, ANSWERS)
    one, two = (frozen(store, manifest, tmp_path / side) for side in ("a", "b"))
    assert io.file_sha256(one) == io.file_sha256(two)


def test_a_reported_case_has_no_label_until_an_admin_has_looked(store, manifest, tmp_path):
    read_batch_with(store, manifest, {**ANSWERS, "c0": (None, {})})
    overlay = read_overlay(frozen(store, manifest, tmp_path))
    assert set(overlay.frame.loc[overlay.frame["case_id"] == "c0", "outcome"]) == {"reported"}


def test_a_patient_who_withdrew_does_not_stop_a_freeze(store, manifest, tmp_path):
    read_batch_with(store, manifest, ANSWERS)
    frozen(store, manifest, tmp_path)
    left = manifest[manifest["case_id"] != "c2"]
    with pytest.raises(InputError, match=r"case c2: found no photograph in the manifest"):
        frozen(store, left, tmp_path)
    told = {"manifest": left, "class_of": CLASS_OF, "folder": tmp_path}
    overlay = read_overlay(freeze(store, ["b"], may_lack=True, **told))
    assert overlay.version == "v2"
    assert set(overlay.frame["case_id"]) == {"c0", "c1", "c3"}
    held = io.read_parquet(tmp_path / "readings" / "test-v2.parquet")[0]
    assert set(held["case_id"]) == {"c0", "c1", "c3"}
    assert apply_overlay(left, overlay)["label"].notna().sum() == 3


def test_a_batch_read_half_takes_nothing_from_one_that_was_read_whole(store, manifest, tmp_path):
    """The same queue opened again after it was closed: one reading of c2 there unsettles nothing."""
    read_batch_with(store, manifest, {k: ANSWERS[k] for k in ("c0", "c2")})
    queue = pd.DataFrame({"case_id": ["c2"], "kind": "random", "stratum": "s", "inclusion_probability": 1.0})
    again = open_batch(store, queue.assign(given_label="eczema", label_basis="single"), name="again",
                       split="test", seed=0, manifest_sha256="m")  # fmt: skip
    record_reading(store, again, "ann", next_case(store, again, "ann").nonce, Answer(("eczema",)))
    close_batch(store, "again", actor="admin")
    overlay = read_overlay(frozen(store, manifest, tmp_path, ("b", "again")))
    assert overlay.frame.set_index("image_id").loc["c2-0", ["outcome", "rule"]].tolist() == [
        "relabel",
        "agreed",
    ]


def test_conditions_that_lack_the_class_of_a_label_are_refused(store, manifest, tmp_path):
    """Under the conditions of another model every reading would differ from every label."""
    read_batch_with(store, manifest, {"c2": ANSWERS["c2"]})
    with pytest.raises(InputError, match=r"labels in the data that are no class .*: eczema"):
        freeze(store, ["b"], manifest=manifest, class_of={"tinea": "tinea"}, folder=tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


def test_an_open_batch_and_batches_of_two_splits_are_refused(store, manifest, tmp_path):
    read_batch_with(store, manifest, ANSWERS)
    read_batch_with(store, manifest, ANSWERS, name="t", split="train")
    with pytest.raises(InputError, match="splits test, train; expected batches of one split"):
        frozen(store, manifest, tmp_path, ("b", "t"))
    queue = pd.DataFrame({"case_id": ["c0"], "kind": "random", "stratum": "s", "inclusion_probability": 1.0})
    open_batch(store, queue, name="open", split="test", seed=0, manifest_sha256="m")
    with pytest.raises(InputError, match="still takes readings; expected closed batches"):
        frozen(store, manifest, tmp_path, ("open",))


def test_an_overlay_over_other_labels_or_other_images_is_refused(store, manifest, tmp_path):
    read_batch_with(store, manifest, ANSWERS)
    overlay = read_overlay(frozen(store, manifest, tmp_path))
    with pytest.raises(
        InputError, match=r"given label 'eczema' of image 'c0-0', in the manifest 'acne' \(8 such"
    ):
        apply_overlay(manifest.assign(label="acne"), overlay)
    with pytest.raises(InputError, match=r"image 'c0-0', which the manifest lacks \(2 such\)"):
        apply_overlay(manifest[manifest["case_id"] != "c0"], overlay)


def test_export_speaks_the_users_own_words(store, manifest, tmp_path):
    read_batch_with(store, manifest, ANSWERS)
    overlay = read_overlay(frozen(store, manifest, tmp_path))
    columns = {"image_id": "FileName", "label": "Diagnose", "outcome": "Ergebnis"}
    table = as_source(
        overlay.frame, columns=columns, labels={"eczema": "Ekzem", "tinea": "Pilz", "psoriasis": "Psoriasis"}
    )
    assert table.columns.tolist() == ["FileName", "Diagnose", "Ergebnis"]
    assert table.set_index("FileName")["Diagnose"].loc["c2-0"] == "Pilz"
    with pytest.raises(InputError, match="class 'tinea' without a string of yours"):
        as_source(overlay.frame, columns=columns, labels={"eczema": "E", "psoriasis": "P"})


def test_a_table_for_others_holds_every_list_as_json(store, manifest, tmp_path):
    read_batch_with(store, manifest, ANSWERS)
    path, out = frozen(store, manifest, tmp_path), tmp_path / "v1.csv"
    assert CliRunner().invoke(app, ["vet", "export", str(path), "--out", str(out)]).exit_code == 0
    row = pd.read_csv(out).set_index("image_id").loc["c1-0"]
    assert json.loads(row["first_answers"]) == ["psoriasis", "psoriasis"]
    assert json.loads(row["readers"]) == ["ann", "bob"]
    assert json.loads(row["labels"])[0]["label"] == "psoriasis"


def test_a_file_that_is_no_overlay_is_named(tmp_path):
    io.write_parquet(tmp_path / "x.parquet", pd.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match="without overlay_version and split in its metadata"):
        read_overlay(tmp_path / "x.parquet")
