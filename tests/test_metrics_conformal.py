"""Conformal sets: a list of diagnoses that holds the label in, say, 90 % of cases, for any model."""

import numpy as np
import pytest
from scipy.stats import beta, kstest

from ddeval.metrics.arrays import softmax
from ddeval.metrics.conformal import (
    METHODS,
    aps_sets,
    aps_threshold,
    fold_sets,
    lac_sets,
    lac_threshold,
    sets_table,
    split_sets,
)
from tests import reference


def case(rng, n_images, *, n_classes=6, sharpness=1.0):
    """Labels come from the stated probabilities; the sets must hold for `sharpness` other than 1 too."""
    logits = 1.5 * rng.normal(size=(n_images, n_classes))
    labels = (softmax(logits).cumsum(axis=1) > rng.random((n_images, 1))).argmax(axis=1)
    return labels, softmax(sharpness * logits)


def covered(labels, sets):
    return sets[np.arange(len(labels)), labels].mean()


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
    assert covered(labels[1000:], sets) == pytest.approx(0.9, abs=0.032)


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
    on_hard = [covered(labels[test][hard], s[hard]) for s in (lac, aps)]
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
    assert covered(labels, sets) == 0.9


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


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90])
def test_a_coverage_outside_0_to_1_is_refused(coverage):
    with pytest.raises(ValueError, match="coverage must lie between 0 and 1"):
        lac_threshold(np.array([0]), np.array([[1.0, 0.0]]), coverage=coverage)


@pytest.mark.parametrize("method", METHODS)
def test_sets_over_folds_cover_other_patients(method):
    """Thresholds of 3,200 others: the coverage has sd sqrt(.09 / 3200 + .09 / 4000) = .007."""
    rng = np.random.default_rng(8)
    labels, probs = case(rng, 4000, sharpness=2.0)
    sets = fold_sets(labels, probs, method=method, groups=np.arange(4000), rng=rng)
    assert covered(labels, sets) == pytest.approx(0.9, abs=0.022)


def test_no_patient_calibrates_its_own_sets():
    """Five patients of 20 images, whose label has the probability .1, .3, .5, .7 or .9. Of four patients' 80
    images the 73rd (81 x .9) is one of the least sure patient, so that only the .1 are not covered."""
    own = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], 20)
    probs = np.column_stack([own, 1 - own])
    labels, groups = np.zeros(100, dtype=int), np.repeat(np.arange(5), 20)
    sets = fold_sets(labels, probs, method="LAC", groups=groups, rng=np.random.default_rng(0))
    assert np.flatnonzero(~sets[:, 0]).tolist() == list(range(20))
    shuffled = np.random.default_rng(1).permutation(100)
    again = fold_sets(
        labels[shuffled], probs[shuffled], method="LAC", groups=groups[shuffled], rng=np.random.default_rng(0)
    )
    assert (again == sets[shuffled]).all()


def test_fewer_patients_than_folds_are_refused():
    labels, probs = case(np.random.default_rng(9), 40)
    with pytest.raises(ValueError, match="5 folds need as many groups, got 4"):
        fold_sets(labels, probs, method="APS", groups=np.arange(40) % 4, rng=np.random.default_rng(0))


def test_the_table_of_sets_worked_by_hand():
    """Four images of two patients; the mask `few` holds the second patient, `none` nobody."""
    sets = np.array([[True, True], [False, True], [False, False], [True, False]])
    labels, groups = np.array([0, 1, 1, 0]), np.array(["a", "a", "b", "b"])
    masks = {"all": np.ones(4, bool), "few": groups == "b", "none": np.zeros(4, bool)}
    table = sets_table(labels, sets, masks, groups=groups, rng=np.random.default_rng(0), n_resamples=200)
    assert table["coverage"].tolist()[:2] == [0.75, 0.5]
    assert table["mean_size"].tolist()[:2] == [1.0, 0.5]
    assert table["share_single"].tolist()[:2] == [0.5, 0.5]
    assert table["share_empty"].tolist()[:2] == [0.25, 0.5]
    assert table["n_images"].tolist() == [4, 2, 0]
    assert table["n_groups"].tolist() == [2, 1, 0]
    assert table["ci_low"][0] < 0.1  # draws say [.5, 1], patient b twice or a twice; two patients tell little
    assert table["ci_high"][0] == 1.0
    assert table.loc[1, ["ci_low", "ci_high"]].isna().all()  # one patient: every draw repeats the value
    assert table.loc[2, ["coverage", "ci_low", "mean_size", "share_empty"]].isna().all()


def test_the_interval_of_coverage_is_that_of_other_patients():
    """400 patients with two images each, half of the luck shared: .9 is covered in 95 of 100."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        is_in = rng.random(400)[:, None] * np.ones(2) < 0.9
        redrawn = rng.random((400, 2)) < 0.5
        is_in[redrawn] = rng.random(redrawn.sum()) < 0.9
        hit = is_in.ravel()
        sets = np.column_stack([hit, ~hit])
        table = sets_table(
            np.zeros(800, dtype=int), sets, {"all": np.ones(800, bool)}, groups=np.repeat(np.arange(400), 2),
            rng=rng, n_resamples=200,
        )  # fmt: skip
        covered += table["ci_low"][0] <= 0.9 <= table["ci_high"][0]
    assert covered / 200 == pytest.approx(0.945, abs=0.045)


@pytest.mark.parametrize("method", METHODS)
def test_split_sets_are_those_of_their_method(method):
    rng = np.random.default_rng(10)
    labels, probs = case(rng, 300)
    fit_labels, fit, test = labels[:200], probs[:200], probs[200:]
    sets = split_sets(fit_labels, fit, test, method=method, rng=np.random.default_rng(1))
    if method == "LAC":
        expected = lac_sets(test, lac_threshold(fit_labels, fit))
    else:
        draws = np.random.default_rng(1)
        expected = aps_sets(test, aps_threshold(fit_labels, fit, rng=draws), rng=draws)
    assert (sets == expected).all()
