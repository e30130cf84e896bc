"""Two photographs, one decision: taken once, taken back by a new event, and carried into the overlay."""

import pandas as pd
import pytest

from ddeval.data.overlay import apply_overlay, read_overlay
from ddeval.vet.batches import close_batch, open_batch
from ddeval.vet.export import freeze
from ddeval.vet.pairs import decide, decisions, next_pair, take_back
from ddeval.vet.reading import Refused
from ddeval.vet.store import Store

PAIRS = pd.DataFrame(
    {
        "image_id_a": ["a1", "b1", "c1"],
        "image_id_b": ["x1", "b2", "d1"],
        "similarity": [1.0, 0.99, None],
        "kind": ["file", "perceptual", "embedding"],
    }
)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "vet.db")
    yield store
    store.close()


@pytest.fixture
def batch(store):
    queue = pd.DataFrame(
        {"case_id": ["a", "b"], "kind": "random", "stratum": "s", "inclusion_probability": 1.0}
    )
    return open_batch(store, queue, name="b", split="test", seed=0, manifest_sha256="m", pairs=PAIRS)


def test_pairs_come_in_order_until_all_are_decided(store, batch):
    for word, left in (("same_photograph", 3), ("same_lesion", 2), ("different", 1)):
        pair = next_pair(store, batch)
        assert pair.n_left == left
        decide(store, batch, "cleo", pair, word)
    assert next_pair(store, batch) is None
    assert decisions(store, "b")["decision"].tolist() == ["same_photograph", "same_lesion", "different"]


def test_a_second_press_and_a_second_person_are_refused(store, batch):
    pair = next_pair(store, batch)
    decide(store, batch, "cleo", pair, "different")
    for who in ("cleo", "dora"):
        with pytest.raises(Refused, match="decided a moment ago"):
            decide(store, batch, who, pair, "same_photograph")
    assert decisions(store, "b")[["decision", "reader"]].to_numpy().tolist() == [["different", "cleo"]]


def test_a_decision_taken_back_is_asked_again_and_stays_in_the_trail(store, batch):
    decide(store, batch, "cleo", next_pair(store, batch), "different")
    with pytest.raises(Refused, match="no decision of yours"):
        take_back(store, batch, "dora")
    again = take_back(store, batch, "cleo")
    assert again == next_pair(store, batch)._replace(n_left=again.n_left)
    decide(store, batch, "cleo", again, "same_photograph")
    assert decisions(store, "b")["decision"].tolist() == ["same_photograph"]
    assert (store.events("b")["kind"] == "pair").sum() == 3
    assert store.verify().is_intact


def test_a_word_that_is_no_decision_and_a_closed_batch_are_refused(store, batch):
    pair = next_pair(store, batch)
    with pytest.raises(Refused, match="no decision"):
        decide(store, batch, "cleo", pair, "perhaps")
    close_batch(store, "b", actor="root")
    with pytest.raises(Refused, match="closed"):
        decide(store, batch, "cleo", pair, "different")


def test_the_copy_in_this_split_loses_its_label_and_of_two_in_it_the_second(store, batch, tmp_path):
    """x1 lies in train: a1 leaves the test numbers. b1 and b2 are both of test: b2 leaves. c1, d1 differ."""
    manifest = pd.DataFrame(
        {"image_id": ["a1", "b1", "b2", "c1", "d1", "x1"], "case_id": ["a", "b", "b", "c", "d", "x"]}
    ).assign(label="eczema", split=["test"] * 5 + ["train"])
    for word in ("same_photograph", "same_photograph", "different"):
        decide(store, batch, "cleo", next_pair(store, batch), word)
    close_batch(store, "b", actor="root")
    path = freeze(store, ["b"], manifest=manifest, class_of={"eczema": "eczema"}, folder=tmp_path)
    overlay = read_overlay(path)
    assert overlay.frame.set_index("image_id")["outcome"].to_dict() == {"a1": "duplicate", "b2": "duplicate"}
    assert overlay.frame["rule"].unique().tolist() == ["pair"]
    left = apply_overlay(manifest, overlay).set_index("image_id")["label"]
    assert left[left.isna()].index.tolist() == ["a1", "b2"]
