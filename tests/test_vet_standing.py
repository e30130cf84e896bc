"""What an open batch says so far: counted by hand, and nothing while there is nothing to count."""

import json

import numpy as np
import pandas as pd
import pytest

from ddeval.vet.batches import open_batch
from ddeval.vet.reading import take_out
from ddeval.vet.standing import MODEL, standing
from ddeval.vet.store import Store

CLASS_OF = {"eczema": "eczema", "psoriasis": "psoriasis"}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "vet.db")
    yield store
    store.close()


def read(store, reader, answers, *, batch="b"):
    with store.write() as connection:
        for case_id, name in answers.items():
            exit_ = None if name in CLASS_OF else name
            fields = {"diagnoses": [] if exit_ else [name], "confidences": [], "exit": exit_}
            store.append(
                connection,
                actor=reader,
                role="reader",
                batch=batch,
                case_id=case_id,
                reading_no=1,
                revision=0,
                kind="reading",
                new=json.dumps({**fields, "more_than_one_disease": False}),
                blind_level="blind",
                nonce=f"{reader}-{case_id}",
            )


def opened(store, **columns):
    queue = pd.DataFrame({"given_label": "eczema", "label_basis": "single", **columns})
    return open_batch(store, queue, name="b", split="test", seed=0, manifest_sha256="m")


def small(store):
    """Two ranked cases, and two of a stratum of eight drawn with probability 1/4."""
    return opened(
        store,
        case_id=["r1", "r2", "a", "b"],
        kind=["ranked"] * 2 + ["random"] * 2,
        stratum=["ranked"] * 2 + ["rest"] * 2,
        inclusion_probability=[1.0, 1.0, 0.25, 0.25],
        rank=[2, 1, 3, 4],
        predicted_label=["psoriasis", "psoriasis", "eczema", "psoriasis"],
    )


def test_nothing_read_is_nothing_said(store):
    batch = small(store)
    found = standing(store, batch, class_of=CLASS_OF, rng=np.random.default_rng(0))
    assert found.errors is None
    assert found.accuracy is None
    assert found.n_strata_unread == 2
    assert len(found.precision) == len(found.agreement[found.agreement["n"] > 0]) == 0
    assert not found.stop.is_enough


def test_a_small_batch_counted_by_hand(store):
    """Truth: r1 and r2 psoriasis (wrong labels), a and b eczema. The split has 2 + 8 cases.

    Wrong: 2 of 2 ranked and 0 of 8, so 2 errors, all found. The model is right on r1, r2 and on one of
    a, b: (2 x 1 + 8 x 1/2) / 10.
    """
    batch = small(store)
    for reader in ("ann", "bob"):
        read(store, reader, {"r1": "psoriasis", "r2": "psoriasis", "a": "eczema", "b": "eczema"})
    found = standing(store, batch, class_of=CLASS_OF, rng=np.random.default_rng(0))
    assert found.outcomes.to_dict() == {"relabel": 2, "keep": 2}
    assert found.precision.iloc[-1][["k", "n_errors", "precision"]].tolist() == [2, 2, 1.0]
    assert found.errors.n_found == 2
    assert found.errors.left == pytest.approx(0, abs=1e-9)
    assert found.errors.left_high > 0.5
    assert found.accuracy.value == pytest.approx(0.6)
    agree = found.agreement.set_index("who")["agrees"]
    assert agree.to_dict() == {"ann": 1.0, "bob": 1.0, MODEL: 0.75}


def test_a_case_without_a_verdict_is_bounded_and_not_guessed(store):
    """b is off topic for both: half of a stratum that is eight tenths of the split."""
    batch = small(store)
    for reader in ("ann", "bob"):
        read(store, reader, {"r1": "psoriasis", "r2": "eczema", "a": "eczema", "b": "off_topic"})
    found = standing(store, batch, class_of=CLASS_OF, rng=np.random.default_rng(0))
    assert found.accuracy.without_verdict == pytest.approx(0.4)
    assert found.accuracy.best_case - found.accuracy.worst_case == pytest.approx(0.4)
    assert found.precision.iloc[-1]["precision"] == pytest.approx(0.5)


def test_a_reported_case_counts_for_nothing_whatever_was_read_of_it(store):
    batch = small(store)
    for reader in ("ann", "bob"):
        read(store, reader, {"r1": "psoriasis", "a": "eczema", "b": "psoriasis"})
    take_out(store, ["r1"], actor="admin", reason="patient withdrew")
    found = standing(store, batch, class_of=CLASS_OF, rng=np.random.default_rng(0))
    assert found.outcomes.to_dict() == {"keep": 1, "relabel": 1}
    assert found.precision.empty


def test_precision_follows_the_rank_and_not_the_order_of_reading(store):
    n = 60
    batch = opened(
        store,
        case_id=[f"c{i}" for i in range(n)],
        kind="ranked",
        stratum="ranked",
        inclusion_probability=1.0,
        rank=list(range(n, 0, -1)),
    )
    wrong = {f"c{i}": "psoriasis" if i >= 50 else "eczema" for i in range(n)}  # ranks 1 to 10
    for reader in ("ann", "bob"):
        read(store, reader, wrong)
    found = standing(store, batch, class_of=CLASS_OF, rng=np.random.default_rng(0))
    assert found.precision.set_index("k")["precision"].to_dict() == pytest.approx(
        {10: 1.0, 20: 0.5, 50: 0.2, 60: 1 / 6}
    )
    assert found.stop.is_enough  # none of the last 50 is wrong


def test_half_read_the_estimate_covers_the_truth(store):
    """Forty of 400 are in the queue, 25 of them read: the total is scaled to 400, its interval holds 80."""
    rng = np.random.default_rng(1)
    n = 40
    queue = {f"c{i}": "psoriasis" if i < 8 else "eczema" for i in range(n)}  # 20 % wrong
    batch = opened(
        store,
        case_id=list(queue),
        kind="random",
        stratum="all",
        inclusion_probability=0.1,
        rank=range(1, n + 1),
    )
    half = dict(rng.permutation(np.array(list(queue.items())))[:25])
    for reader in ("ann", "bob"):
        read(store, reader, half)
    found = standing(store, batch, class_of=CLASS_OF, rng=rng)
    total = found.errors.left + found.errors.n_found
    held = sum(name == "psoriasis" for name in half.values())
    assert total == pytest.approx(400 * held / 25)
    assert found.errors.left_low + found.errors.n_found < 80 < found.errors.left_high + found.errors.n_found
