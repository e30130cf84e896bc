"""Resampling: how far would a number move, had other patients come?"""

import numpy as np
import pytest

from ddeval.metrics import auroc_macro, bootstrap, macro_f1, top_k_accuracy
from ddeval.metrics.arrays import softmax
from ddeval.metrics.measures import measure_of
from ddeval.metrics.readings import Reading
from ddeval.metrics.resampling import group_codes, group_weights, percentile_interval
from tests import reference


def mean(x):
    return float(x.mean()) if len(x) else float("nan")


def weighted_mean(x, *, weights=None):
    return float(np.average(x, weights=weights))


def clustered_case(seed):
    """120 images of 3 classes in 40 groups of uneven size; no draw misses a class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120) % 3
    logits = rng.normal(size=(120, 3)) + np.eye(3)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probs, rng.integers(40, size=120).astype(str)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("statistic", [top_k_accuracy, macro_f1, auroc_macro])
def test_weights_give_what_taking_the_rows_of_each_draw_gives(statistic, seed):
    """Same generator, same draws: the interval equals the slow one's, which works on copied rows."""
    labels, probs, groups = clustered_case(seed)
    slow = reference.bootstrap_replicates(
        statistic, labels, probs, groups=groups, rng=np.random.default_rng(seed), n_resamples=120
    )
    fast = bootstrap(
        statistic, labels, probs, groups=groups, rng=np.random.default_rng(seed), n_resamples=120
    )
    low, high = np.nanquantile(slow, [0.025, 0.975])
    assert fast[:3] == pytest.approx((statistic(labels, probs), low, high), abs=1e-12)


@pytest.mark.parametrize("statistic", [weighted_mean, lambda x: float(x.mean()), np.mean])
def test_a_statistic_of_ones_own_gets_the_same_draws_with_weights_or_without(statistic):
    x, groups = np.random.default_rng(0).normal(size=50), np.arange(50) // 3
    slow = reference.bootstrap_replicates(
        mean, x, groups=groups, rng=np.random.default_rng(1), n_resamples=130
    )
    fast = bootstrap(statistic, x, groups=groups, rng=np.random.default_rng(1), n_resamples=130)
    assert fast[1:3] == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


def test_repeating_every_photograph_of_a_lesion_leaves_the_interval_alone():
    """Ten copies of a photograph are no more evidence than one; by image it would shrink by sqrt(10)."""
    x, lesions = np.random.default_rng(0).normal(size=60), np.arange(60)
    once = bootstrap(mean, x, groups=lesions, rng=np.random.default_rng(1))
    ten_times = bootstrap(mean, np.repeat(x, 10), groups=np.repeat(lesions, 10), rng=np.random.default_rng(1))
    np.testing.assert_allclose(ten_times[:3], once[:3])
    assert (ten_times.n_images, ten_times.n_groups) == (600, 60)


def test_interval_of_a_mean_is_two_standard_errors_each_way():
    """For 400 normal draws the percentile interval must be mean +- 1.96 sd / sqrt(400), to 5 %."""
    x = np.random.default_rng(3).normal(size=400)
    estimate = bootstrap(mean, x, groups=np.arange(400), rng=np.random.default_rng(4), n_resamples=4000)
    half_width = (estimate.ci_high - estimate.ci_low) / 2
    assert half_width == pytest.approx(1.96 * x.std(ddof=1) / 20, rel=0.05)


def test_clusters_widen_the_interval_by_the_design_effect():
    """Groups of 4 equal images: the mean of 100 groups has the standard error of 100 images, not of 400."""
    x = np.repeat(np.random.default_rng(3).normal(size=100), 4)
    arguments = {"n_resamples": 4000}
    by_group = bootstrap(mean, x, groups=np.arange(400) // 4, rng=np.random.default_rng(4), **arguments)
    by_image = bootstrap(mean, x, groups=np.arange(400), rng=np.random.default_rng(4), **arguments)
    widening = (by_group.ci_high - by_group.ci_low) / (by_image.ci_high - by_image.ci_low)
    assert widening == pytest.approx(2.0, rel=0.07)


def test_the_order_of_rows_changes_nothing():
    x, groups = np.random.default_rng(0).normal(size=50), np.arange(50) // 3
    rows = np.random.default_rng(1).permutation(50)
    first = bootstrap(mean, x, groups=groups, rng=np.random.default_rng(2), n_resamples=100)
    shuffled = bootstrap(mean, x[rows], groups=groups[rows], rng=np.random.default_rng(2), n_resamples=100)
    assert shuffled == pytest.approx(first)


def test_a_wider_level_gives_a_wider_interval():
    x = np.random.default_rng(0).normal(size=50)
    low, high = (
        bootstrap(mean, x, groups=np.arange(50), rng=np.random.default_rng(2), confidence_level=level)
        for level in (0.8, 0.99)
    )
    assert high.ci_low < low.ci_low < low.ci_high < high.ci_high


def test_undefined_resamples_are_counted_and_left_out():
    """One positive group of three: a third cubed, (2/3)^3 = 30 % of the draws, miss it."""

    def share_of_first(x):
        return mean(x[x > 0])

    estimate = bootstrap(
        share_of_first, np.array([5.0, 0.0, 0.0]), groups=np.arange(3), rng=np.random.default_rng(0)
    )
    assert estimate.n_undefined / 2000 == pytest.approx((2 / 3) ** 3, abs=4 * 0.0102)  # 4 binomial sd
    assert (estimate.ci_low, estimate.ci_high) == (5.0, 5.0)


def test_resamples_without_a_class_are_undefined_for_a_mean_over_classes():
    """One lesion of 20 is the only one of class 1: (19/20)^20 = 36 % of the draws miss it."""
    labels = np.arange(20) == 0
    probs = np.column_stack([np.linspace(0.1, 0.9, 20), np.linspace(0.9, 0.1, 20)])
    estimate = bootstrap(
        auroc_macro, labels.astype(int), probs, groups=np.arange(20), rng=np.random.default_rng(0)
    )
    assert estimate.n_undefined / 2000 == pytest.approx((19 / 20) ** 20, abs=4 * 0.0107)  # 4 binomial sd


def test_a_statistic_that_is_never_defined_has_no_interval():
    estimate = bootstrap(
        lambda x: float("nan"), np.ones(3), groups=np.arange(3), rng=np.random.default_rng(0), n_resamples=7
    )
    assert np.isnan(estimate[:3]).all()
    assert estimate.n_undefined == 7


@pytest.mark.parametrize("n_images", [4, 40_000])
def test_every_resample_weighs_as_many_groups_as_there_are(n_images):
    """Many images come a few resamples at a time, few all at once."""
    group_of, n_groups = group_codes(np.arange(n_images) // 2)
    blocks = list(group_weights(group_of, n_groups, rng=np.random.default_rng(0), n_resamples=21))
    weights = np.concatenate(blocks)
    assert weights.shape == (21, n_images)
    assert len(blocks) == (1 if n_images == 4 else 3)
    np.testing.assert_array_equal(weights[:, ::2], weights[:, 1::2])
    np.testing.assert_array_equal(weights[:, ::2].sum(axis=1), n_groups)


@pytest.mark.parametrize("n_undefined", [0, 3, 199, 200])
def test_percentiles_are_those_of_numpy_over_the_defined_values(n_undefined):
    replicates = np.random.default_rng(0).normal(size=(200, 2))
    replicates[:n_undefined, 1] = np.nan
    low, high, counted = percentile_interval(replicates, confidence_level=0.9)
    assert counted.tolist() == [0, n_undefined]
    for column in range(2):
        held = replicates[~np.isnan(replicates[:, column]), column]
        expected = np.quantile(held, [0.05, 0.95]) if len(held) else [np.nan, np.nan]
        np.testing.assert_allclose([low[column], high[column]], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": np.array([])}, "groups is empty: there is nothing to resample"),
        ({"groups": np.arange(4)}, r"groups has 4 rows, arrays have \[5\]"),
        ({"groups": np.array(["a", None, "b", None, "c"], dtype=object)}, "row 1 is empty, 2 rows in all"),
        ({"groups": np.arange(5), "n_resamples": 0}, "n_resamples must be at least 1, got 0"),
        ({"groups": np.arange(5), "confidence_level": 95}, "must lie between 0 and 1, got 95"),
    ],
    ids=["empty", "length", "missing", "resamples", "level"],
)
def test_what_cannot_be_resampled_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(mean, np.ones(5), rng=np.random.default_rng(0), **arguments)


TRUTH = {
    "top_1_accuracy": 0.78849,
    "balanced_accuracy": 0.78843,
    "mcc": 0.67947,
    "auroc_macro": 0.92769,
    "average_precision_macro": 0.87198,
    "nll": 0.51850,
    "brier_score": 0.29786,
    "calibration_gap": -0.01244,
}
"""Of `planted_case` with clusters and without, from 20 samples of 400,000 lesions; standard errors below
.0002, a hundredth of the width of the intervals they judge."""


def planted_case(rng, n_lesions, *, has_clusters):
    """Lesions of three classes; with clusters, one to four photographs that are hard or easy together."""
    lesions = np.repeat(np.arange(n_lesions), rng.integers(1, 5, size=n_lesions) if has_clusters else 1)
    labels = rng.choice(3, p=[0.4, 0.35, 0.25], size=n_lesions)[lesions]
    shared, own = rng.normal(size=(n_lesions, 3))[lesions], rng.normal(size=(len(lesions), 3))
    return labels, softmax(2.4 * np.eye(3)[labels] + 1.2 * shared + 0.9 * own), lesions


def coverage(n_repeats, *, n_resamples=1000, has_clusters, by_image=False):
    """Share of samples of 600 lesions whose 95 % interval holds the truth, by metric."""
    rng = np.random.default_rng(17)
    truth = np.array(list(TRUTH.values()))
    n_held = np.zeros(len(truth))
    for _ in range(n_repeats):
        labels, probs, lesions = planted_case(rng, 600, has_clusters=has_clusters)
        group_of, n_groups = group_codes(np.arange(len(labels)) if by_image else lesions)
        blocks = group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples)
        low, high, _ = percentile_interval(np.concatenate([*map(one_pass(labels, probs), blocks)]))
        n_held += (low <= truth) & (truth <= high)
    return dict(zip(TRUTH, (n_held / n_repeats).tolist(), strict=True))


def one_pass(labels, probs):
    """The metrics above as a run's summary works them out: weights (B, N) -> (B, 8)."""
    measure = measure_of(Reading("all", "", labels, probs, np.arange(len(labels)), ("a", "b", "c"), None))

    def values(weights):
        numbers = measure(weights)
        return np.column_stack([numbers[name] for name in TRUTH])

    return values


@pytest.mark.parametrize("has_clusters", [False, True], ids=["images", "clusters"])
def test_the_planted_truth_is_that_of_a_large_sample(has_clusters):
    """100,000 lesions; the largest standard error, that of NLL, is below .003."""
    labels, probs, _ = planted_case(np.random.default_rng(1), 100_000, has_clusters=has_clusters)
    (values,) = one_pass(labels, probs)(np.ones((1, len(labels))))
    assert values == pytest.approx(np.array(list(TRUTH.values())), abs=4 * 0.003)


@pytest.mark.parametrize("has_clusters", [False, True], ids=["images", "clusters"])
def test_the_interval_holds_the_truth_in_95_of_100_samples(has_clusters):
    """A tenth of the count: 50 samples, so within three binomial sd, 3 x .031, below .95."""
    covered = coverage(50, n_resamples=400, has_clusters=has_clusters)
    assert {name: share for name, share in covered.items() if share < 0.95 - 3 * 0.031} == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("has_clusters", [False, True], ids=["images", "clusters"])
def test_the_interval_holds_the_truth_in_92_5_to_97_5_percent_of_samples(has_clusters):
    """500 samples; the binomial sd is .010."""
    covered = coverage(500, has_clusters=has_clusters)
    assert {name: share for name, share in covered.items() if not 0.925 <= share <= 0.975} == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_drawing_images_where_lesions_have_several_holds_the_truth_too_seldom():
    """What the intervals above would be without groups: the check can fail."""
    covered = coverage(500, has_clusters=True, by_image=True)
    assert {name: share for name, share in covered.items() if share > 0.925} == {}


@pytest.mark.parametrize("rng", [0, None, np.random])
def test_a_seed_where_a_generator_belongs_is_told_what_to_pass(rng):
    with pytest.raises(TypeError, match=r"such as np\.random\.default_rng\(0\), got"):
        bootstrap(np.mean, np.ones(3), groups=np.arange(3), rng=rng)
