"""What holds for every scalar metric: a new one joins the dictionary and is held to all of it."""

import subprocess
import sys
from functools import partial
from inspect import isfunction

import numpy as np
import pytest

from ddeval import metrics
from ddeval.metrics import bootstrap, calibration, discrimination, selective, smoothing
from ddeval.metrics.arrays import softmax

MODULES = {
    discrimination: (
        "top_k_accuracy",
        "balanced_accuracy",
        "macro_f1",
        "weighted_f1",
        "mcc",
        "cohen_kappa",
        "auroc_macro",
        "auroc_weighted",
        "average_precision_macro",
    ),
    calibration: ("nll", "brier_score", "calibration_gap", "ece", "ece_equal_mass", "mce", "classwise_ece"),
    smoothing: ("smooth_ece",),
    selective: ("aurc", "eaurc", "augrc", "failure_auroc", "coverage_at_risk"),
}
METRICS = {name: getattr(module, name) for module, names in MODULES.items() for name in names}
DRAWS = {name: getattr(module, f"{name}_draws") for module, names in MODULES.items() for name in names}
OPTIONS = {
    "top_3_accuracy": partial(discrimination.top_k_accuracy, k=3),
    "ece of 5 bins": partial(calibration.ece, n_bins=5),
    "coverage_at_risk_10": partial(selective.coverage_at_risk, risk=0.1),
}
PERFECT = {
    "top_k_accuracy": 1.0,
    "balanced_accuracy": 1.0,
    "macro_f1": 1.0,
    "weighted_f1": 1.0,
    "mcc": 1.0,
    "cohen_kappa": 1.0,
    "auroc_macro": 1.0,
    "auroc_weighted": 1.0,
    "average_precision_macro": 1.0,
    "coverage_at_risk": 1.0,
    "failure_auroc": np.nan,  # nothing failed, so there is nothing to rank
}


def random_case(seed, n_images=60):
    """Images of 4 classes, each class labelled and predicted, no two probabilities the same."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_images) % 4
    return labels, softmax(2 * rng.normal(size=(n_images, 4)) + 2.5 * np.eye(4)[labels])


def cases(metrics):
    return pytest.mark.parametrize("metric", metrics.values(), ids=metrics.keys())


@cases(METRICS | OPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_images_changes_nothing(metric, seed):
    labels, probs = random_case(seed)
    rows = np.random.default_rng(seed).permutation(len(labels))
    assert metric(labels[rows], probs[rows]) == pytest.approx(metric(labels, probs), nan_ok=True)


@cases(METRICS | OPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_the_names_of_classes_change_nothing(metric, seed):
    labels, probs = random_case(seed)
    classes = np.random.default_rng(seed).permutation(4)
    renamed = np.argsort(classes)[labels]
    assert metric(renamed, probs[:, classes]) == pytest.approx(metric(labels, probs), nan_ok=True)


@cases(METRICS | OPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_is_a_number_of_copies(metric, seed):
    """Weight 2 is the row twice, weight 0 is no row."""
    labels, probs = random_case(seed)
    weights = np.random.default_rng(seed).integers(0, 4, size=len(labels))
    weights[:8] = 1
    rows = np.repeat(np.arange(len(labels)), weights)
    expected = metric(labels[rows], probs[rows])
    assert metric(labels, probs, weights=weights) == pytest.approx(expected, nan_ok=True)


@cases(METRICS | OPTIONS)
def test_weights_of_zero_can_take_a_class_away(metric):
    """Means over classes are then over the others, as if the images had never been there."""
    labels, probs = random_case(0)
    held = labels != 3
    expected = metric(labels[held], probs[held])
    assert metric(labels, probs, weights=held.astype(float)) == pytest.approx(expected, nan_ok=True)


@cases(METRICS | OPTIONS)
def test_only_the_proportion_of_weights_counts(metric):
    labels, probs = random_case(0)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, size=len(labels))
    expected = metric(labels, probs, weights=weights)
    assert metric(labels, probs, weights=7 * weights) == pytest.approx(expected, nan_ok=True)


@cases(METRICS | OPTIONS)
def test_without_images_a_metric_is_nan(metric):
    """Undefined is NaN. A zero would read as perfect calibration."""
    assert np.isnan(metric(np.empty(0, dtype=int), np.empty((0, 3))))


@cases(METRICS | OPTIONS)
def test_weights_of_zero_leave_no_images(metric):
    labels, probs = random_case(0)
    assert np.isnan(metric(labels, probs, weights=np.zeros(len(labels))))


@pytest.mark.parametrize("name", METRICS)
def test_a_model_that_is_surely_right_gets_the_best_value(name):
    labels = np.arange(12) % 4
    assert METRICS[name](labels, np.eye(4)[labels]) == pytest.approx(PERFECT.get(name, 0.0), nan_ok=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", METRICS)
def test_each_draw_equals_the_metric_under_its_weights(name, dtype):
    """Row b of the draws is the metric under weights b, in the float32 of the bootstrap as in float64."""
    labels, probs = random_case(1)
    weights = np.random.default_rng(0).integers(1, 5, size=(7, len(labels))).astype(dtype)
    one_by_one = [METRICS[name](labels, probs, weights=w) for w in weights]
    np.testing.assert_allclose(DRAWS[name](labels, probs, weights), one_by_one, rtol=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_repeated_photographs_of_a_lesion_leave_the_interval_alone(name):
    """Five copies of every photograph say nothing new: same value, same interval."""
    labels, probs = random_case(2)
    lesions = np.arange(len(labels)) // 2
    arguments = {"rng": np.random.default_rng(1), "n_resamples": 60}
    once = bootstrap(METRICS[name], labels, probs, groups=lesions, **arguments)
    rows = np.repeat(np.arange(len(labels)), 5)
    arguments["rng"] = np.random.default_rng(1)
    five_times = bootstrap(METRICS[name], labels[rows], probs[rows], groups=lesions[rows], **arguments)
    np.testing.assert_allclose(five_times[:3], once[:3], rtol=1e-9)
    assert (five_times.n_images, five_times.n_groups) == (5 * once.n_images, once.n_groups)


@cases(METRICS)
def test_probabilities_of_float32_are_taken_as_they_are(metric):
    labels, probs = random_case(0)
    expected = metric(labels, probs.astype(np.float32).astype(np.float64))
    assert metric(labels, probs.astype(np.float32)) == pytest.approx(expected, nan_ok=True)


@cases(METRICS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y, p, w: (y + 3, p, w), r"labels must lie in 0\.\.3 .* row 1 has 4, 45 rows in all"),
        (lambda y, p, w: (y - 1, p, w), r"labels must lie in 0\.\.3 .* row 0 has -1"),
        (lambda y, p, w: (y + 0.5, p, w), "got dtype float64: each the column of its class"),
        (lambda y, p, w: (y[1:], p, w), r"got \(59,\) and \(60, 4\)"),
        (lambda y, p, w: (y, np.log(p), w), r"must lie in 0\.\.1; row 0 has .* \(logits\?"),
        (lambda y, p, w: (y, p * 0.5, w), r"must sum to 1; row 0 sums to 0\.5000"),
        (lambda y, p, w: (y, np.where(p == p[7, 2], np.nan, p), w), r"row 7 has nan .* 1 rows in all"),
        (lambda y, p, w: (y, p, w[1:]), r"weights must have shape \(60,\), got \(59,\)"),
        (lambda y, p, w: (y, p, -w), "weights must be finite and not negative"),
    ],
    ids=["high", "low", "fraction", "length", "logits", "sum", "nan", "weights", "negative"],
)
def test_what_is_not_labels_and_probabilities_is_refused(metric, change, message):
    labels, probs, weights = change(*random_case(0), np.ones(60))
    with pytest.raises(ValueError, match=message):
        metric(labels, probs, weights=weights)


def test_the_public_names_are_those_of_the_design():
    """And none of them is hidden by a module of the same name."""
    names = (
        "top_k_accuracy balanced_accuracy macro_f1 mcc auroc_macro average_precision_macro nll brier_score"
    )
    names += " ece classwise_ece smooth_ece aurc augrc bootstrap compare"
    assert set(names.split()) == set(metrics.__all__)
    assert all(isfunction(getattr(metrics, name)) for name in metrics.__all__)


def test_importing_the_metrics_loads_no_model_library():
    """netcal loads torch; it is imported inside the one function that uses it."""
    code = "import sys, ddeval.metrics, ddeval.metrics.summary; print([m for m in %r if m in sys.modules])"
    heavy = ["torch", "transformers", "netcal", "matplotlib", "sklearn", "cleanlab"]
    done = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
