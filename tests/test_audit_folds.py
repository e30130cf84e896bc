"""Out of fold: no image is judged by a fit that saw it or its patient."""

import numpy as np
import pytest

from ddeval.audit.folds import fold_of, head_fitter, out_of_fold


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_whole_and_folds_hold_their_share_of_each_class(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(150, size=600)
    labels = rng.choice(4, size=600, p=[0.6, 0.25, 0.1, 0.05])
    fold = fold_of(labels, n_folds=5, groups=groups, rng=rng)
    assert all(len(np.unique(fold[groups == g])) == 1 for g in np.unique(groups))
    for k in range(4):
        n = np.bincount(fold[labels == k], minlength=5)
        assert n.max() - n.min() <= 0.2 * n.sum() + 3


def test_the_fitter_never_sees_what_it_judges_nor_its_patient():
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(40, size=200), rng.integers(3, size=200)
    judged_rows = []

    def fit_predict(train, judged):
        assert not set(groups[train]) & set(groups[judged])
        judged_rows.extend(judged)
        return np.full((len(judged), 3), 1 / 3)

    probs = out_of_fold(fit_predict, labels, n_folds=4, groups=groups, rng=rng)
    assert sorted(judged_rows) == list(range(200))
    np.testing.assert_allclose(probs, 1 / 3)


def test_a_head_finds_planted_labels_that_it_would_believe_in_sample():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=300)
    features = rng.normal(0, 0.6, (300, 10))
    features[np.arange(300), truth] += 2
    wrong = rng.random(300) < 0.1
    labels = np.where(wrong, (truth + 1) % 3, truth)
    probs = out_of_fold(head_fitter(features, labels, n_classes=3), labels, rng=rng)
    doubt = np.argsort(probs[np.arange(300), labels])[: 2 * wrong.sum()]
    assert wrong[doubt].sum() >= 0.9 * wrong.sum()


def test_a_class_smaller_than_the_folds_is_zero_where_no_other_fold_has_it():
    labels = np.r_[np.zeros(20, int), np.ones(20, int), 2]
    features = np.random.default_rng(0).normal(size=(41, 4))
    probs = out_of_fold(
        head_fitter(features, labels, n_classes=4), labels, n_classes=4, rng=np.random.default_rng(0)
    )
    assert probs[40, 2] == 0
    assert (probs[:, 3] == 0).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1)


def test_a_fold_left_with_one_class_to_learn_from_is_undefined():
    labels = np.r_[np.zeros(9, int), 1]
    fit = head_fitter(np.random.default_rng(0).normal(size=(10, 2)), labels, n_classes=2)
    probs = out_of_fold(fit, labels, n_folds=5, rng=np.random.default_rng(0))
    assert np.isnan(probs[9]).all()


@pytest.mark.parametrize("n_folds", [0, 1, 11])
def test_folds_that_cannot_be_cut_are_named(n_folds):
    with pytest.raises(ValueError, match=r"n_folds must lie between 2 and the number of groups \(10\)"):
        fold_of(np.arange(10) % 2, n_folds=n_folds, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("answer", "message"), [(np.ones((1, 2)), "must return shape"), (None, "rows that sum to 1")]
)
def test_a_fitter_that_answers_nonsense_is_named(answer, message):
    def fit_predict(train, judged):
        return np.full((len(judged), 2), 3.0) if answer is None else answer

    with pytest.raises(ValueError, match=message):
        out_of_fold(fit_predict, np.arange(20) % 2, rng=np.random.default_rng(0))
