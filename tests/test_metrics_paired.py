"""Paired comparison: published counts, hand-worked corrections, planted differences."""

import numpy as np
import pytest

from ddeval.metrics.arrays import softmax
from ddeval.metrics.discrimination import top_k_accuracy
from ddeval.metrics.paired import compare, flips, holm
from ddeval.metrics.resampling import bootstrap
from ddeval.metrics.summary import summarise


def simulated(rng, *, accuracies, n_groups=150, per_group=2, n_classes=4, shared=0.7):
    """Labels, groups and probabilities of runs of known accuracy whose errors go together within a group."""
    n = n_groups * per_group
    groups = np.repeat(np.arange(n_groups), per_group)
    labels = rng.integers(n_classes, size=n)
    hardness = np.where(rng.random(n) < shared, rng.random(n_groups)[groups], rng.random(n))
    runs = {}
    for name, accuracy in accuracies.items():
        own = np.where(rng.random(n) < 0.5, hardness, rng.random(n))
        answer = np.where(own < accuracy, labels, (labels + rng.integers(1, n_classes, size=n)) % n_classes)
        probs = np.full((n, n_classes), 0.1)
        probs[np.arange(n), answer] = 0.7
        runs[name] = probs
    return labels, groups, runs


def difference(found, run="b", metric="top_1_accuracy"):
    rows = found.differences
    return rows[(rows["run"] == run) & (rows["metric"] == metric) & (rows["subset"] == "all")].iloc[0]


def test_holm_worked_by_hand():
    """p .01, .04, .03 of three: .01 x 3, then .03 x 2, then .04 but not below .06."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])


def test_holm_leaves_an_undefined_p_out_of_the_family():
    np.testing.assert_allclose(holm([0.02, np.nan, 0.5]), [0.04, np.nan, 0.5])


def test_a_difference_is_the_bootstrap_of_the_difference():
    """The same draws, asked for one number: value and interval to the last bits."""
    labels, groups, runs = simulated(np.random.default_rng(0), accuracies={"a": 0.6, "b": 0.7})
    found = difference(
        compare(labels, runs, groups=groups, rng=np.random.default_rng(5), baseline="a", n_resamples=200)
    )

    def gain(labels, a, b):
        return top_k_accuracy(labels, b) - top_k_accuracy(labels, a)

    direct = bootstrap(
        gain, labels, runs["a"], runs["b"], groups=groups, rng=np.random.default_rng(5), n_resamples=200
    )
    assert found["difference"] == pytest.approx(direct.value, abs=1e-12)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((direct.ci_low, direct.ci_high), abs=1e-6)


@pytest.mark.parametrize("other_class", [None, "d"])
def test_each_number_has_the_value_interval_and_n_it_has_alone(other_class):
    """The same seed, so the same draws: what a comparison says of a run is what its own summary says."""
    rng = np.random.default_rng(5)
    labels, groups, runs = simulated(rng, accuracies={"a": 0.6, "b": 0.97}, n_groups=40, per_group=3)
    labels[:] = np.where(labels == 1, 0, labels)  # a class without an image
    cases = np.arange(len(labels)) // 2
    names = ("a", "b", "c", "d")
    found = compare(
        labels, runs, groups=groups, rng=np.random.default_rng(1), class_names=names, other_class=other_class,
        case_ids=cases, n_resamples=40,
    ).values  # fmt: skip
    columns = ["value", "ci_low", "ci_high", "n_images", "n_groups", "n_undefined"]
    for run, probs in runs.items():
        alone = summarise(
            labels, probs, groups=groups, class_names=names, other_class=other_class, case_ids=cases,
            rng=np.random.default_rng(1), run=run, n_resamples=40,
        ).metrics  # fmt: skip
        alone = alone[alone["class_name"].isna()].set_index(["subset", "metric"])
        ours = found[found["run"] == run].set_index(["subset", "metric"])
        assert len(ours) > 30
        for key in ours.index:
            expected = alone.loc[key, columns].to_numpy(dtype=float)
            np.testing.assert_allclose(ours.loc[key, columns].to_numpy(dtype=float), expected, err_msg=key)


def test_further_numbers_say_what_they_are_over():
    """A share of 1 over five images of five patients has the exact lower end .025 ** (1 / 5)."""
    labels, groups, runs = simulated(np.random.default_rng(2), accuracies={"a": 0.6, "b": 0.7})
    over = np.arange(len(labels)) % 2 == 0
    over &= groups < 5
    more = {run: lambda weights: {("all", "grave_right"): np.ones(len(weights))} for run in runs}
    found = compare(
        labels, runs, groups=groups, rng=np.random.default_rng(1), more=more,
        more_over={("all", "grave_right"): over}, n_resamples=10,
    ).values  # fmt: skip
    row = found[found["metric"] == "grave_right"].iloc[0]
    assert (row["n_images"], row["n_groups"]) == (5, 5)
    assert row["ci_low"] == pytest.approx(0.025 ** (1 / 5))
    assert row["ci_high"] == 1.0


@pytest.mark.parametrize("is_one_image", [True, False])
def test_a_difference_of_one_patient_has_no_interval(is_one_image):
    """Every resample is that patient again: it repeats the difference and bounds nothing."""
    n = 1 if is_one_image else 4
    labels = np.zeros(n, dtype=int)
    right, wrong = (np.tile(row, (n, 1)) for row in ([0.8, 0.2], [0.3, 0.7]))
    found = compare(
        labels, {"a": wrong, "b": right}, groups=np.zeros(n), rng=np.random.default_rng(0), n_resamples=50
    )
    row = difference(found)
    assert (row["difference"], row["n_images"], row["n_groups"]) == (1.0, n, 1)
    assert row[["ci_low", "ci_high", "se", "p_value", "p_holm", "minimum_detectable"]].isna().all()


def test_a_run_against_its_copy_differs_by_nothing():
    """And the data cannot say by how much a difference could hide: no interval, no p-value."""
    labels, groups, runs = simulated(np.random.default_rng(1), accuracies={"a": 0.6})
    found = compare(labels, {"a": runs["a"], "b": runs["a"]}, groups=groups, rng=np.random.default_rng(0))
    row = difference(found)
    assert row["difference"] == 0
    assert row[["ci_low", "ci_high", "p_value"]].isna().all()
    defined = found.best[found.best["shortfall"].notna()]
    assert defined["is_in_best_set"].all()
    assert (defined["shortfall"] == 0).all()


def test_order_of_images_and_names_of_groups_change_nothing():
    labels, groups, runs = simulated(np.random.default_rng(2), accuracies={"a": 0.6, "b": 0.65})
    rows = np.random.default_rng(3).permutation(len(labels))
    one = compare(labels, runs, groups=groups, rng=np.random.default_rng(0), n_resamples=100)
    two = compare(
        labels[rows],
        {k: v[rows] for k, v in runs.items()},
        groups=groups[rows],
        rng=np.random.default_rng(0),
        n_resamples=100,
    )
    np.testing.assert_allclose(one.differences["ci_low"], two.differences["ci_low"], atol=1e-6)


def test_a_clearly_worse_run_is_outside_the_best_set_and_a_close_one_inside():
    labels, groups, runs = simulated(
        np.random.default_rng(4), accuracies={"a": 0.8, "b": 0.79, "c": 0.5}, n_groups=400
    )
    best = compare(labels, runs, groups=groups, rng=np.random.default_rng(0), n_resamples=500).best
    best = best[(best["metric"] == "top_1_accuracy") & (best["subset"] == "all")].set_index("run")
    assert best["is_in_best_set"].to_dict() == {"a": True, "b": True, "c": False}


def test_lower_is_better_for_a_loss():
    labels, groups, runs = simulated(np.random.default_rng(6), accuracies={"a": 0.9, "b": 0.4}, n_groups=300)
    best = compare(labels, runs, groups=groups, rng=np.random.default_rng(0), n_resamples=200).best
    of_loss = best[(best["metric"] == "nll") & (best["subset"] == "all")].set_index("run")
    assert of_loss["is_in_best_set"].to_dict() == {"a": True, "b": False}


def test_flips_say_who_is_right():
    labels = np.array([0, 1, 0])
    a = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    b = np.array([[0.1, 0.9], [0.1, 0.9], [0.8, 0.2]])
    assert flips(labels, a, b).tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "zz"}, "baseline 'zz' is not one of a, b"),
        ({"confidence_level": 1.0}, "confidence_level must lie between 0 and 1"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(options, message):
    labels, groups, runs = simulated(np.random.default_rng(0), accuracies={"a": 0.6, "b": 0.6}, n_groups=5)
    with pytest.raises(ValueError, match=message):
        compare(labels, runs, groups=groups, rng=np.random.default_rng(0), **options)


def test_one_run_and_two_widths_are_refused():
    with pytest.raises(ValueError, match="two runs or more, got 1"):
        compare(np.array([0]), {"a": np.ones((1, 1))}, groups=np.array([0]), rng=np.random.default_rng(0))
    runs = {"a": np.full((2, 2), 0.5), "b": np.full((2, 4), 0.25)}
    with pytest.raises(ValueError, match=r"runs have \[2, 4\] classes"):
        compare(np.array([0, 1]), runs, groups=np.array([0, 1]), rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    "labels", [np.zeros(6, dtype=int), np.array([0, 0, 0, 1, 1, 1])], ids=["one class", "two"]
)
def test_one_class_alone_ends_in_nan_and_not_in_a_crash(labels):
    runs = {"a": np.full((6, 3), 1 / 3), "b": np.full((6, 3), 1 / 3)}
    found = compare(labels, runs, groups=np.arange(6), rng=np.random.default_rng(0), n_resamples=50)
    row = difference(found, metric="auroc_macro")
    assert np.isnan(row["difference"]) == (len(set(labels.tolist())) == 1)


@pytest.mark.parametrize("per_group", [1, 3])
@pytest.mark.parametrize("repeats", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_paired_intervals_cover_a_planted_difference(per_group, repeats):
    """Two runs .70 and .62 right: 95 % intervals hold .08 in 92.5 to 97.5 of 100 (fewer repeats: wider)."""
    slack = 0.025 if repeats >= 500 else 0.075
    covered = 0
    for seed in range(repeats):
        rng = np.random.default_rng([seed, per_group])
        labels, groups, runs = simulated(
            rng, accuracies={"a": 0.62, "b": 0.70}, n_groups=120, per_group=per_group
        )
        row = difference(compare(labels, runs, groups=groups, rng=rng, baseline="a", n_resamples=300))
        covered += row["ci_low"] <= 0.08 <= row["ci_high"]
    print(f"\n{repeats} repeats, {per_group} a group: true difference covered in {covered / repeats:.1%}")
    assert covered / repeats == pytest.approx(0.95, abs=slack)


@pytest.mark.parametrize("per_group", [1, 3])
@pytest.mark.parametrize("repeats", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_holm_keeps_the_family_wise_error_when_nothing_differs(per_group, repeats):
    """Five equal runs, four comparisons: any false finding in at most 7 % (60 repeats: 11 %)."""
    false_findings = 0
    for seed in range(repeats):
        rng = np.random.default_rng([seed, per_group, 7])
        labels, groups, runs = simulated(
            rng, accuracies=dict.fromkeys("abcde", 0.7), n_groups=120, per_group=per_group
        )
        found = compare(labels, runs, groups=groups, rng=rng, baseline="a", n_resamples=300).differences
        top_1 = found[(found["metric"] == "top_1_accuracy") & (found["subset"] == "all")]
        false_findings += (top_1["p_holm"] < 0.05).any()
    print(f"\n{repeats} repeats, {per_group} a group: family-wise error {false_findings / repeats:.1%}")
    assert false_findings / repeats <= (0.07 if repeats >= 500 else 0.11)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("against", "alone", "p_value", "se_paired", "se_unpaired"),
    [("wrn", (547, 362), 9.2e-10, 0.003009, 0.003831), ("densenet", (418, 366), 0.0685, 0.002800, 0.003684)],
)
def test_mcnemar_and_standard_errors_of_published_pairs(
    real_data, against, alone, p_value, se_paired, se_unpaired
):
    """cleanlab's CIFAR-10 answers against WRN-16-4 and DenseNet-40; to the digits given, with n - 1."""
    labels = np.load(real_data / "label_errors" / "cifar10_test_set_original_labels.npy").astype(int)
    wrn = np.load(real_data / "calibration" / "wideresnet-16-4-cifar-10.npz")
    densenet = np.load(real_data / "calibration" / "densenet40_cifar10_logits.npz")
    assert (wrn["ground_truth"] == labels).all()
    assert (densenet["y_test"] == labels).all()
    cleanlab = np.load(real_data / "label_errors" / "cifar10_pred_probs.npy").astype(float)
    base = {"wrn": wrn["predictions"].astype(float), "densenet": softmax(densenet["logits_test"])}[against]
    found = compare(
        labels,
        {name: p / p.sum(axis=1, keepdims=True) for name, p in (("base", base), ("cleanlab", cleanlab))},
        groups=np.arange(len(labels)),
        rng=np.random.default_rng(0),
        baseline="base",
        n_resamples=20,
    ).mcnemar.iloc[0]
    assert (found["n_only_run"], found["n_only_baseline"]) == alone
    assert found["p_value"] == pytest.approx(p_value, rel=0.01)
    assert found["se_paired"] == pytest.approx(se_paired, abs=5e-7)
    assert found["se_unpaired"] == pytest.approx(se_unpaired, abs=5e-7)
