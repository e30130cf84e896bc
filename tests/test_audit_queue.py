"""Queue, plan and progress: which cases are read, what an evening buys, when it is enough."""

import numpy as np
import pandas as pd
import pytest

from ddeval.audit.plan import class_widths, effort, evening, expected_width
from ddeval.audit.progress import errors_left, exact_interval, precision_at_k, stop_rule
from ddeval.audit.queue import MIXES, REPEAT_GAP, Mix, case_table, make_queue
from ddeval.metrics.truth import Sample, estimate


def cases(n=1500, seed=0):
    """Cases of one to six images; the chance of being right is stated honestly."""
    rng = np.random.default_rng(seed)
    chance = np.clip(rng.beta(4, 1, n), 0.01, 0.99)
    return pd.DataFrame(
        {
            "case_id": [f"c{i:05d}" for i in range(n)],
            "label_quality": chance,
            "label_error": 1 - chance,
            "expected_correct": chance,
            "is_agreed": rng.random(n) < chance,
            "n_images": rng.integers(1, 7, n),
            "given_label": rng.choice(["eczema", "acne", "rare"], size=n, p=[0.6, 0.39, 0.01]),
        }
    )


def queue_of(table, *, n=200, mix=MIXES["test"], seed=0, **more):
    return make_queue(table, n_cases=n, mix=mix, rng=np.random.default_rng(seed), **more)


def test_the_seed_rebuilds_the_queue_and_another_seed_draws_another_one():
    table = cases()
    pd.testing.assert_frame_equal(queue_of(table).items, queue_of(table).items)
    assert queue_of(table).items["case_id"].tolist() != queue_of(table, seed=1).items["case_id"].tolist()


def test_the_mix_is_kept_and_the_ranked_cases_are_the_most_doubtful_ones():
    table = cases()
    items = queue_of(table).items
    assert items["kind"].value_counts().to_dict() == {"random": 150, "ranked": 40, "repeat": 10}
    worst = set(table.nsmallest(40, "label_quality")["case_id"])
    assert set(items.loc[items["kind"] == "ranked", "case_id"]) == worst


def test_no_case_stands_twice_but_as_a_repeat_far_behind_its_first_place():
    items = queue_of(cases()).items
    once = items[items["kind"] != "repeat"]
    assert once["case_id"].is_unique
    first = pd.Series(once.index, index=once["case_id"])
    repeats = items[items["kind"] == "repeat"]
    assert (repeats.index - first[repeats["case_id"]].to_numpy() >= REPEAT_GAP).all()


def test_stated_probabilities_are_those_of_the_draw():
    """Over 120 seeds a case is in the queue as often as it says: binomial sd, four of them."""
    table = cases(n=300)
    n_drawn = np.zeros(300)
    for seed in range(120):
        queue = queue_of(table, n=100, seed=seed)
        n_drawn += table["case_id"].isin(queue.items["case_id"]).to_numpy()
    stated = queue.frame["inclusion_probability"].to_numpy()
    apart = np.abs(n_drawn / 120 - stated)
    assert (apart <= 4.5 * np.sqrt(np.maximum(stated * (1 - stated), 1e-9) / 120)).all()


def test_histology_is_locked_and_no_reader_is_asked():
    table = cases()
    table["label_basis"] = np.where(np.arange(len(table)) % 3 == 0, "histology", "single")
    queue = queue_of(table)
    locked = set(table.loc[table["label_basis"] == "histology", "case_id"])
    assert not locked & set(queue.items["case_id"])
    assert set(queue.frame.loc[queue.frame["stratum"] == "locked", "case_id"]) == locked


def test_a_later_batch_takes_no_case_of_an_earlier_one():
    table = cases()
    first = queue_of(table)
    second = queue_of(table, seed=1, earlier=[first.items])
    assert not set(first.items["case_id"]) & set(second.items["case_id"])
    assert len(second.items) == 200


@pytest.mark.parametrize("n_cases", [1, 2, 5, 39, 41, 1499, 1500, 5000])
def test_a_queue_of_any_length_holds_no_more_than_there_is(n_cases):
    items = queue_of(cases(), n=n_cases).items
    assert items[items["kind"] != "repeat"]["case_id"].is_unique
    assert 1 <= len(items) <= n_cases


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": Mix(0.5, 0.4, 0.0)}, "must sum to 1"),
        ({"n": 0}, "n_cases must be positive"),
    ],
)
def test_a_queue_that_cannot_be_made_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        queue_of(cases(), **change)
    table = cases(n=3)
    table["case_id"] = "same"
    with pytest.raises(ValueError, match="'same' stands twice"):
        queue_of(table)


def test_a_case_is_as_doubtful_as_its_most_doubtful_image():
    images = pd.DataFrame(
        {
            "case_id": ["a", "a", "b"],
            "label_quality": [0.9, 0.2, 0.5],
            "label_error": [0.1, 0.5, 0.3],
            "expected_correct": [0.8, 0.4, 0.5],
            "is_agreed": [True, False, True],
            "reason": ["fine", "doubt", "so so"],
        }
    )
    table = case_table(images).set_index("case_id")
    assert table.loc["a", ["label_quality", "n_images", "reason", "is_agreed"]].tolist() == [
        0.2, 2, "doubt", False,
    ]  # fmt: skip
    assert table.loc["a", "expected_correct"] == pytest.approx(0.6)


def test_four_readers_of_120_cases_finish_204_of_them_read_twice():
    """480 readings / (2 + .3 adjudications + .05 / .95 repeats) = 204.01."""
    spent = effort(readers=4, cases=120, reads=2, repeats=0.05, disagreement=0.30)
    assert (spent.n_readings, spent.n_finished, spent.n_adjudications) == (480, 204, 61)
    assert spent.hours_per_reader == 2.0
    assert spent.n_queue == spent.n_finished + spent.n_repeats == 215


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"readers": 2}, "2 readings and an adjudication need 3 readers, there are 2"),
        ({"reads": 0}, "reads must be at least 1"),
        ({"disagreement": 1.2}, "are shares"),
    ],
)
def test_an_evening_that_cannot_be_held_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        effort(**({"readers": 4, "cases": 10, "reads": 2} | change))


@pytest.mark.parametrize("per_image", [True, False])
def test_the_planned_width_is_the_one_the_verdicts_give(per_image):
    """Planned from the chances alone; measured over 30 draws with verdicts drawn by those chances."""
    table, rng = cases(), np.random.default_rng(0)
    chance = table["expected_correct"].to_numpy()
    planned, measured = [], []
    for seed in range(30):
        items, frame = queue_of(table, seed=seed)
        correct = (rng.random(len(table)) < chance).astype(float)
        index = np.flatnonzero(frame["case_id"].isin(items["case_id"]))
        sample = Sample(index, frame["inclusion_probability"].to_numpy()[index])
        sizes = table["n_images"].to_numpy() if per_image else None
        got = estimate(correct, frame["stratum"].to_numpy(), sample, sizes=sizes)
        measured.append(got.ci_high - got.ci_low)
        planned.append(expected_width(table, frame, per_image=per_image))
    assert np.mean(planned) == pytest.approx(np.mean(measured), rel=0.06)


def test_an_evening_says_what_it_buys_and_for_which_class_it_is_hopeless():
    found = evening(cases(), readers=4, cases=120, reads=2, mix=MIXES["test"], rng=np.random.default_rng(0))
    assert found["n_finished"] == 204
    assert 0.05 < found["width_per_case"] < 0.2
    assert 0 < found["errors_expected_ranked"] < found["errors_expected"] < found["errors_expected_in_split"]
    verdicts = {row["class_name"]: row["verdict"] for row in found["classes"]}
    assert verdicts == {"eczema": "measured", "acne": "measured", "rare": "hopeless"}


def test_an_evening_finds_no_wrong_label_where_histology_locks_it():
    table = cases(n=400)
    is_locked = np.arange(400) < 200
    table["label_basis"] = np.where(is_locked, "histology", "single")
    found = evening(table, readers=4, cases=40, reads=2, mix=MIXES["test"], rng=np.random.default_rng(0))
    open_to_doubt = table.loc[~is_locked, "label_error"].sum()
    assert found["errors_expected_in_split"] == pytest.approx(open_to_doubt)
    assert found["errors_expected"] < open_to_doubt


def test_a_class_nobody_reads_is_hopeless_and_has_the_whole_width():
    table = cases(n=50)
    widths = class_widths(table, np.zeros(50))
    assert (widths["verdict"] == "hopeless").all()
    assert (widths["width"] == 1.0).all()


def test_exact_bounds_are_clopper_and_pearsons():
    """Textbook: 0 of 10 leaves up to .3085, 5 of 10 lies in .1871 to .8129, nothing seen leaves all open."""
    assert exact_interval(0, 10) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert exact_interval(5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert exact_interval(0, 0) == (0.0, 1.0)


def test_precision_at_k_counts_verdicts_and_skips_cases_without_one():
    table = precision_at_k([1, np.nan, 1, 0, 1], ks=(2, 3, 9))
    assert table["k"].tolist() == [2, 3, 4]
    assert table["n_errors"].tolist() == [2, 2, 3]
    assert precision_at_k([np.nan]).empty


def test_errors_left_are_the_estimated_ones_less_those_found():
    """100 rows in one stratum, 20 read, 4 wrong: 20 in all, 16 left."""
    verdicts = np.full(100, np.nan)
    verdicts[:20] = np.r_[np.ones(4), np.zeros(16)]
    found = errors_left(verdicts, np.zeros(100), Sample(np.arange(20), np.full(20, 0.2)))
    assert (found.n_found, found.left) == (4, pytest.approx(16))
    assert found.left_low < 16 < found.left_high


def test_it_is_enough_when_hardly_one_of_the_last_fifty_was_wrong():
    """0 of 50: at most 5.8 %; 1 of 50: 9.1 %; 2 of 50: 12.1 %, which is not below 10 %."""
    ends = [stop_rule(np.r_[np.ones(30), np.zeros(50 - k), np.ones(k)]) for k in (0, 1, 2)]
    assert [end.is_enough for end in ends] == [True, True, False]
    assert [end.precision_high for end in ends] == pytest.approx([0.0582, 0.0914, 0.1206], abs=1e-3)
    assert not stop_rule(np.zeros(49)).is_enough
