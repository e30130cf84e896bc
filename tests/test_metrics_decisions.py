"""Decisions: what does a patient with something malignant get from this model, and at what price?"""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from ddeval.metrics.arrays import softmax
from ddeval.metrics.decisions import (
    confident_misses,
    harm_draws,
    is_flagged,
    malignant_probability,
    net_benefit_curve_draws,
    sensitivity_at_specificity_draws,
)
from tests import reference

MALIGNANT_CLASSES = np.array([True, False, True, False])


def random_case(seed, *, has_ties=False):
    rng = np.random.default_rng(seed)
    n_images = int(rng.integers(20, 80))
    is_malignant = rng.random(n_images) < 0.3
    is_malignant[:2] = [True, False]
    score = softmax(rng.normal(size=(n_images, 2)) + is_malignant[:, None] * [1.0, 0.0])[:, 0]
    return is_malignant, np.round(score, 1) if has_ties else score


def class_case(seed):
    """Probabilities of four classes, two of them malignant; a tenth of the malignant rows lie in the last,
    benign class, as a melanoma inside `other` does."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=60)
    is_malignant = MALIGNANT_CLASSES[labels] | (rng.random(60) < 0.1)
    return is_malignant, softmax(2 * rng.normal(size=(60, 4)) + 2 * np.eye(4)[labels])


METRICS = {  # each of (arrays of a case, weights)
    "sensitivity_at_specificity": lambda truth, score, w: sensitivity_at_specificity_draws(
        truth, score, w, specificity=0.8
    ),
    "net_benefit": lambda truth, score, w: net_benefit_curve_draws(truth, score, w, thresholds=[0.2])[:, 0],
    "share missed": lambda truth, score, w: harm_draws(truth, score > 0.5, score < 0.2, w)["missed"],
}


def one_draw(truth, weights=None):
    return np.ones((1, len(truth))) if weights is None else weights[None]


def sensitivity(truth, score, specificity=0.9):
    return sensitivity_at_specificity_draws(truth, score, one_draw(truth), specificity=specificity)[0]


def net_benefit(truth, score, thresholds, weights=None):
    return net_benefit_curve_draws(truth, score, one_draw(truth, weights), thresholds=thresholds)[0]


@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_sensitivity_matches_its_definition(seed, specificity):
    truth, score = random_case(seed, has_ties=seed % 2 == 1)
    value = sensitivity(truth, score, specificity)
    assert value == pytest.approx(reference.sensitivity_at_specificity(truth, score, specificity))


@pytest.mark.parametrize("seed", range(4))
def test_sensitivity_is_read_off_scikit_learns_roc_curve(seed):
    truth, score = random_case(seed)
    false_alarms, found, _ = roc_curve(truth, score, drop_intermediate=False)
    expected = found[1 - false_alarms >= 0.9].max()
    assert sensitivity(truth, score) == pytest.approx(expected)


def test_a_specificity_on_the_line_is_kept_whatever_the_rounding():
    """3 of 30 benign rows above the malignant one at .9: (1 - .9) x 30 is 2.9999999999999996."""
    truth, score = np.arange(31) == 3, np.linspace(1, 0, 31)
    assert sensitivity(truth, score) == 1.0


def test_rows_of_one_score_are_referred_together():
    """The malignant row ties with both benign ones: no threshold finds it and keeps a specificity."""
    assert sensitivity(np.array([True, False, False]), np.ones(3), specificity=0.5) == 0.0


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_net_benefit_matches_its_definition(seed, threshold):
    truth, score = random_case(seed, has_ties=True)
    value = net_benefit(truth, score, [threshold])[0]
    assert value == pytest.approx(reference.net_benefit(truth, score, threshold), abs=1e-12)


def test_referring_everybody_gains_nothing_where_the_threshold_is_the_prevalence():
    """Everybody: prevalence - (1 - prevalence) t / (1 - t), which is 0 where t is the prevalence."""
    truth, score = random_case(3)
    share = truth.mean()
    expected = [share - (1 - share) * t / (1 - t) for t in (0.1, share, 0.6)]
    everybody = net_benefit(truth, np.ones(len(truth)), [0.1, share, 0.6])
    assert everybody.tolist() == pytest.approx(expected)
    assert everybody[1] == pytest.approx(0.0)
    one_by_one = [net_benefit(truth, score, [t])[0] for t in (0.1, share, 0.6)]
    assert net_benefit(truth, score, [0.1, share, 0.6]).tolist() == pytest.approx(one_by_one)


def test_a_perfect_score_gains_the_share_of_malignant_rows_at_every_threshold():
    truth, _ = random_case(4)
    gains = net_benefit(truth, truth.astype(float), [0.01, 0.5, 0.99])
    assert gains.tolist() == pytest.approx([truth.mean()] * 3)


def test_draws_of_the_curve_are_its_points():
    truth, score = random_case(5)
    weights = np.random.default_rng(5).integers(0, 3, size=(4, len(truth))).astype(float)
    draws = net_benefit_curve_draws(truth, score, weights, thresholds=[0.1, 0.3])
    expected = [[net_benefit(truth, score, [t], w)[0] for t in (0.1, 0.3)] for w in weights]
    np.testing.assert_allclose(draws, expected)


def test_a_malignancy_inside_other_is_missed_though_its_class_is_right():
    """The label of the row is `other` and the model says so; by its diagnosis it is malignant."""
    probs = np.array([[0.1, 0.1, 0.1, 0.7], [0.7, 0.1, 0.1, 0.1]])
    flagged = is_flagged(probs, MALIGNANT_CLASSES)
    harm = harm_draws(np.array([True, True]), flagged, np.array([False, False]), np.ones((1, 2)))
    assert harm["missed"].tolist() == [0.5]


def test_the_malignant_probability_is_summed_over_classes():
    """Three malignant answers of .2 outweigh the benign one of .4 that wins: referred, though not flagged."""
    probs = np.array([[0.2, 0.4, 0.2, 0.2]])
    classes = np.array([True, False, True, True])
    assert malignant_probability(probs, classes).tolist() == pytest.approx([0.6])
    assert is_flagged(probs, classes).tolist() == [False]


def test_a_tie_at_the_top_does_not_flag():
    """As everywhere, a tie counts against the model."""
    assert is_flagged(np.array([[0.5, 0.5]]), np.array([True, False])).tolist() == [False]


def test_without_malignant_classes_nothing_is_flagged():
    assert is_flagged(np.array([[0.5, 0.5]]), np.array([False, False])).tolist() == [False]
    assert is_flagged(np.array([[0.5, 0.5]]), np.array([True, True])).tolist() == [True]


@pytest.mark.parametrize("seed", range(5))
def test_flagged_rows_are_those_whose_top_class_is_malignant(seed):
    _, probs = class_case(seed)
    np.testing.assert_array_equal(
        is_flagged(probs, MALIGNANT_CLASSES), MALIGNANT_CLASSES[probs.argmax(axis=1)]
    )


def test_confident_misses_are_malignant_unflagged_and_sure():
    probs = np.array([[0.1, 0.9, 0.0, 0.0], [0.3, 0.7, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [0.1, 0.9, 0.0, 0.0]])
    truth = np.array([True, True, True, False])
    assert confident_misses(truth, probs, MALIGNANT_CLASSES).tolist() == [True, False, False, False]
    assert confident_misses(truth, probs, MALIGNANT_CLASSES, min_confidence=0.7).tolist()[:2] == [True, True]


def test_harm_worked_by_hand():
    """Four malignant rows: one found, two deferred (one of them flagged as well), one missed."""
    truth = np.array([True, True, True, True, False])
    flagged = np.array([True, True, False, False, True])
    deferred = np.array([False, True, True, False, False])
    harm = harm_draws(truth, flagged, deferred, one_draw(truth))
    assert {outcome: share.tolist() for outcome, share in harm.items()} == {
        "right": [0.25],
        "deferred": [0.5],
        "missed": [0.25],
    }


@pytest.mark.parametrize("name", METRICS)
def test_a_weight_is_that_many_copies_of_the_row(name):
    truth, score = random_case(7, has_ties=True)
    counts = np.random.default_rng(7).integers(0, 4, size=len(truth))
    rows = np.repeat(np.arange(len(truth)), counts)
    copies = METRICS[name](truth[rows], score[rows], one_draw(rows))
    assert METRICS[name](truth, score, one_draw(truth, counts)) == pytest.approx(copies)


@pytest.mark.parametrize("name", METRICS)
def test_draws_are_the_metric_under_each_row_of_weights(name, monkeypatch):
    """A draw without a malignant row is NaN where the metric is about malignant rows."""
    truth, score = random_case(8)
    weights = np.random.default_rng(8).integers(0, 3, size=(7, len(truth))).astype(np.float32)
    weights[4] = 0
    monkeypatch.setattr("ddeval.metrics.arrays.BLOCK_CELLS", 3 * len(truth))
    values = METRICS[name](truth, score, weights)
    one_by_one = np.concatenate([METRICS[name](truth, score, one_draw(truth, w)) for w in weights])
    np.testing.assert_allclose(values, one_by_one)
    assert np.isnan(values).tolist() == [False] * 4 + [True] + [False] * 2


@pytest.mark.parametrize("name", METRICS)
def test_metrics_do_not_depend_on_the_order_of_rows(name):
    truth, score = random_case(9, has_ties=True)
    rows = np.random.default_rng(9).permutation(len(truth))
    metric, draw = METRICS[name], one_draw(truth)
    assert metric(truth[rows], score[rows], draw) == pytest.approx(metric(truth, score, draw))


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_nan_without_rows(name):
    assert np.isnan(METRICS[name](np.empty(0, dtype=bool), np.empty(0), np.empty((1, 0))))


@pytest.mark.parametrize("name", ["sensitivity_at_specificity", "share missed"])
def test_what_is_about_malignant_rows_is_nan_without_one(name):
    assert np.isnan(METRICS[name](np.zeros(3, dtype=bool), np.array([0.1, 0.5, 0.9]), np.ones((1, 3))))


def test_sensitivity_is_nan_without_a_benign_row():
    """Every threshold keeps a specificity nobody can measure."""
    assert np.isnan(sensitivity(np.ones(3, dtype=bool), np.array([0.1, 0.5, 0.9])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, s: sensitivity(t, s, specificity=90), r"specificity must lie in \[0, 1\]"),
        (lambda t, s: net_benefit(t, s, [1.0]), "thresholds must lie between 0 and 1"),
        (lambda t, s: malignant_probability(np.ones((2, 1)), np.array([1])), "must be bool, one a class"),
        (lambda t, s: is_flagged(np.full((2, 2), 3.0), t), r"logits\? apply softmax first"),
        (
            lambda t, s: confident_misses(t[:1], np.ones((2, 1)), np.array([True])),
            r"shape \(2,\), got \(1,\)",
        ),
    ],
)
def test_a_callers_mistake_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.array([True, False]), np.array([0.9, 0.1]))
