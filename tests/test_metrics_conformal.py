"""Conformal sets: a list of diagnoses that holds the label in, say, 90 % of cases, for any model."""

import numpy as np
import pytest
from scipy.stats import beta, kstest

from ddeval.metrics.arrays import softmax
from ddeval.metrics.conformal import aps_sets, aps_threshold, coverage_table, lac_sets, lac_threshold
from tests import reference


def case(rng, n_images, *, n_classes=6, sharpness=1.0):
    """Labels come from the stated probabilities; the sets must hold for `sharpness` other than 1 too."""
    logits = 1.5 * rng.normal(size=(n_images, n_classes))
    labels = (softmax(logits).cumsum(axis=1) > rng.random((n_images, 1))).argmax(axis=1)
    return labels, softmax(sharpness * logits)


@pytest.mark.parametrize("coverage", [0.5, 0.55, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("n_images", [8, 9, 19, 50, 99])
def test_lac_sets_match_their_definition(n_images, coverage):
    """99 images at .55 ask for the 55th, though 100 times .55 is 55.00000000000001."""
    rng = np.random.default_rng(n_images)
    labels, probs = case(rng, n_images)
    _, others = case(rng, 20)
    sets = lac_sets(others, lac_threshold(labels, probs, coverage=coverage))
    for row, members in zip(others, sets, strict=True):
        assert set(np.flatnonzero(members)) == reference.lac_set(labels, probs, row, coverage)


def test_true_coverage_of_lac_is_beta_distributed():
    """With the label's probability uniform on [0, 1] the true coverage is 1 - threshold, so it can be
    compared with Beta(n + 1 - l, l) exactly: n = 99, l = 10."""
    rng = np.random.default_rng(0)
    coverages = []
    for _ in range(2000):
        own = rng.random(99)
        coverages.append(1 - lac_threshold(np.zeros(99, dtype=int), np.column_stack([own, 1 - own])))
    assert kstest(coverages, beta(90, 10).cdf).pvalue > 0.01
    assert np.mean(coverages) == pytest.approx(0.9, abs=3 * 0.03 / np.sqrt(2000))


def test_true_coverage_of_aps_is_beta_distributed():
    """A sure classifier's score is its own uniform share, so the true coverage is the threshold itself."""
    rng = np.random.default_rng(1)
    labels, probs = np.zeros(99, dtype=int), np.tile([1.0, 0.0], (99, 1))
    coverages = [aps_threshold(labels, probs, rng=rng) for _ in range(2000)]
    assert kstest(coverages, beta(90, 10).cdf).pvalue > 0.01


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("method", ["lac", "aps"])
def test_sets_cover_whatever_the_calibration_of_the_model(method, sharpness):
    """1,000 + 4,000 images: coverage has sd sqrt(.09 / 1000 + .09 / 4000) = .0106."""
    rng = np.random.default_rng(2)
    labels, probs = case(rng, 5000, sharpness=sharpness)
    if method == "lac":
        sets = lac_sets(probs[1000:], lac_threshold(labels[:1000], probs[:1000]))
    else:
        threshold = aps_threshold(labels[:1000], probs[:1000], rng=rng)
        sets = aps_sets(probs[1000:], threshold, rng=rng)
    assert coverage_table(labels[1000:], sets).loc[0, "coverage"] == pytest.approx(0.9, abs=0.032)


def test_aps_keeps_its_promise_on_hard_images_better_than_lac():
    """Half the images are easy, half are guesses: LAC covers those less, APS gives longer lists."""
    rng = np.random.default_rng(3)
    is_hard = np.arange(8000) % 2 == 1
    logits = np.where(is_hard[:, None], 0.3, 4.0) * rng.normal(size=(8000, 6))
    probs = softmax(logits)
    labels = (probs.cumsum(axis=1) > rng.random((8000, 1))).argmax(axis=1)
    fit, test = slice(0, 4000), slice(4000, None)
    lac = lac_sets(probs[test], lac_threshold(labels[fit], probs[fit]))
    aps = aps_sets(probs[test], aps_threshold(labels[fit], probs[fit], rng=rng), rng=rng)
    hard = is_hard[test]
    on_hard = [coverage_table(labels[test][hard], s[hard]).loc[0, "coverage"] for s in (lac, aps)]
    assert on_hard[0] < 0.88
    assert on_hard[1] == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize(("n_images", "coverage"), [(8, 0.9), (18, 0.95)])
def test_too_few_calibration_images_give_the_whole_list(n_images, coverage):
    """(n + 1) coverage beyond n: no threshold can be promised, so every class is in every set."""
    rng = np.random.default_rng(4)
    labels, probs = case(rng, n_images)
    assert lac_sets(probs, lac_threshold(labels, probs, coverage=coverage)).all()
    assert aps_sets(probs, aps_threshold(labels, probs, coverage=coverage, rng=rng), rng=rng).all()
    more_labels, more = case(rng, n_images + 1)
    assert not lac_sets(probs, lac_threshold(more_labels, more, coverage=coverage)).all()


def test_the_image_that_sets_the_threshold_is_covered_itself():
    """10 images at 80 %: the 9th of ceil(11 x .8) = 9 is on the threshold, so 9 of the 10 are covered."""
    labels, probs = case(np.random.default_rng(6), 10)
    sets = lac_sets(probs, lac_threshold(labels, probs, coverage=0.8))
    assert coverage_table(labels, sets).loc[0, "coverage"] == 0.9


def test_the_whole_list_is_whole_for_rows_that_sum_to_a_little_more_than_one():
    rng = np.random.default_rng(7)
    assert aps_sets(np.tile([0.5, 0.3, 0.2009], (50, 1)), 1.0, rng=rng).all()


def test_no_calibration_images_give_the_whole_list():
    none = np.empty(0, dtype=int), np.empty((0, 3))
    assert lac_threshold(*none) == 0.0
    assert aps_threshold(*none, rng=np.random.default_rng(0)) == 1.0


def test_aps_lists_the_most_probable_classes_first():
    """A class is never in the set while a more probable one is out."""
    rng = np.random.default_rng(5)
    _, probs = case(rng, 200)
    sets = aps_sets(probs, 0.7, rng=rng)
    ordered = np.take_along_axis(sets, np.argsort(-probs, axis=1), axis=1)
    assert (np.diff(ordered.astype(int), axis=1) <= 0).all()
    assert 0 < sets.sum() < sets.size


def test_the_coverage_table_worked_by_hand():
    """Class 0: in the set of one of two images; class 1: one image, an empty set."""
    sets = np.array([[True, True], [False, True], [False, False]])
    table = coverage_table(np.array([0, 0, 1]), sets)
    assert table.to_dict("list") == {
        "label": [-1, 0, 1],
        "n_images": [3, 2, 1],
        "coverage": [1 / 3, 0.5, 0.0],
        "mean_size": [1.0, 1.5, 0.0],
        "share_empty": [1 / 3, 0.0, 1.0],
    }


def test_coverage_of_no_images_is_nan():
    table = coverage_table(np.empty(0, dtype=int), np.empty((0, 3), dtype=bool))
    assert table["n_images"].tolist() == [0]
    assert np.isnan(table.loc[0, "coverage"])


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90])
def test_a_coverage_outside_0_to_1_is_refused(coverage):
    with pytest.raises(ValueError, match="coverage must lie between 0 and 1"):
        lac_threshold(np.array([0]), np.array([[1.0, 0.0]]), coverage=coverage)


def test_sets_of_other_images_are_refused():
    with pytest.raises(ValueError, match=r"got \(2,\) and \(1, 3\)"):
        coverage_table(np.array([0, 1]), np.ones((1, 3), dtype=bool))
