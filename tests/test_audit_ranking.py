"""Ranking: wrong labels come first, on real noise too, and nothing about rows or names matters."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ddeval.audit import label_quality
from ddeval.audit.confident import (
    class_health,
    class_overlap,
    confident_joint,
    label_issue_mask,
    label_quality_scores,
)
from ddeval.audit.issues import absent_class_table, issues_table
from ddeval.audit.ranking import both, member_weights, own, recalibrated
from ddeval.audit.strata import expected_correct, posterior, strata_of

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "ranking.py"


def noisy(seed=0, *, n=600, K=5, noise=0.15, margin=2.0):
    """Labels, probabilities and which labels are wrong; classes 0 and 1 look alike."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(K, size=n)
    logits = rng.normal(0, 0.8, (n, K))
    logits[np.arange(n), truth] += rng.normal(margin, 1.0, n)
    swap = truth < 2
    logits[swap, 1 - truth[swap]] += 1.0
    wrong = rng.random(n) < noise
    labels = np.where(wrong, (truth + rng.integers(1, K, n)) % K, truth)
    probs = np.exp(logits)
    return labels, probs / probs.sum(axis=1, keepdims=True), wrong


def test_few_rows_are_ranked_by_the_probability_of_the_given_label():
    labels, probs, _ = noisy(n=50)
    np.testing.assert_array_equal(label_quality(labels, probs), own(probs, labels))


@pytest.mark.parametrize("seed", range(4))
def test_wrong_labels_come_before_right_ones(seed):
    labels, probs, wrong = noisy(seed)
    assert average_precision_score(wrong, -label_quality(labels, probs)) > 0.65  # chance is .15


@pytest.mark.parametrize("seed", range(3))
def test_order_of_rows_and_names_of_classes_do_not_matter(seed):
    labels, probs, _ = noisy(seed)
    rng = np.random.default_rng(seed)
    rows, classes = rng.permutation(len(labels)), rng.permutation(5)
    expected = label_quality(labels, probs)
    np.testing.assert_allclose(label_quality(labels[rows], probs[rows]), expected[rows], atol=1e-6)
    renamed = np.argsort(classes)[labels]
    np.testing.assert_allclose(label_quality(renamed, probs[:, classes]), expected, atol=2e-4)


def test_quality_lies_between_0_and_1_and_one_checkpoint_may_be_a_list():
    labels, probs, _ = noisy()
    quality = label_quality(labels, probs)
    assert quality.min() >= 0
    assert quality.max() <= 1
    np.testing.assert_array_equal(label_quality(labels, [probs]), quality)


def test_quality_is_the_geometric_mean_of_both_opinions():
    """sqrt(.9 x .1) = .3; the arithmetic mean, .5, would hide the doubt."""
    quality = both(np.array([0.9, 0.25, 0.0]), np.array([0.1, 0.25, 0.5]))
    np.testing.assert_allclose(quality, [0.3, 0.25, 0.0], atol=1e-12)


def test_labels_the_model_rules_out_are_still_ordered_by_the_other_opinion():
    """A float32 softmax rounds to 0; such rows must not tie at the top of the list."""
    first, second = both(np.zeros(2), np.array([0.1, 0.4]))
    assert 0 < first < second


def test_a_poor_checkpoint_does_not_spoil_a_good_one():
    labels, good, wrong = noisy(1, n=2000, margin=3.0)
    poor = np.random.default_rng(0).dirichlet(np.full(5, 0.3), size=2000)
    weights = member_weights(labels, [good, poor])
    assert weights[0] > 0.9
    alone = average_precision_score(wrong, -label_quality(labels, good))
    assert average_precision_score(wrong, -label_quality(labels, [good, poor])) > alone - 0.01


def test_embeddings_that_know_the_truth_help_and_those_that_say_nothing_cost_little():
    labels, probs, wrong = noisy(2, n=1500, margin=1.2)
    rng = np.random.default_rng(0)
    truth = np.where(wrong, -1, labels)
    known = rng.normal(0, 0.4, (1500, 8))
    for k in range(5):
        known[truth == k, k] += 2
    alone = average_precision_score(wrong, -label_quality(labels, probs))
    helped = average_precision_score(wrong, -label_quality(labels, probs, features=known))
    useless = average_precision_score(
        wrong, -label_quality(labels, probs, features=rng.normal(size=(1500, 8)))
    )
    assert helped > alone + 0.02
    assert useless > alone - 0.01


def test_the_caller_keeps_labels_probabilities_and_features_as_they_are():
    labels, probs, _ = noisy()
    features = np.random.default_rng(0).normal(size=(600, 4))
    before = labels.copy(), probs.copy(), features.copy()
    label_quality(labels, probs, features=features)
    for now, then in zip((labels, probs, features), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_no_images_give_no_scores():
    assert label_quality(np.empty(0, int), np.empty((0, 3))).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "probs", "message"),
    [
        ([0, 1], [[0.5, 0.5]], r"labels must have shape"),
        ([0, 5], [[0.5, 0.5], [0.5, 0.5]], r"labels must lie in 0\.\.1"),
        ([0, 1], [[0.5, np.nan], [0.5, 0.5]], "row 0"),
        ([0, 1], [[3.0, 2.0], [0.5, 0.5]], "row 0"),
    ],
)
def test_what_is_no_label_or_no_probability_is_named(labels, probs, message):
    with pytest.raises(ValueError, match=message):
        label_quality(np.array(labels), np.array(probs))


def test_checkpoints_of_other_shapes_and_missing_embeddings_are_named():
    labels, probs, _ = noisy(n=120)
    with pytest.raises(ValueError, match="checkpoints must agree in shape"):
        label_quality(labels, [probs, np.full((120, 6), 1 / 6)])
    with pytest.raises(ValueError, match="features must have a row for each of 120 labels, got 7"):
        label_quality(labels, probs, features=np.ones((7, 3)))


def test_an_absent_class_and_a_class_of_one_image_are_ranked_like_the_rest():
    labels, probs, _ = noisy(n=300)
    kept = labels != 3  # class 3 is never given
    labels, probs = labels[kept], probs[kept]
    labels[labels == 4] = 2
    labels[0] = 4  # class 4 is given once
    quality = label_quality(labels, probs)
    assert np.isfinite(quality).all()
    likely = recalibrated(labels, probs)
    np.testing.assert_allclose(likely[:, 3], probs[:, 3])


def test_identical_embeddings_and_nan_embeddings_do_no_harm():
    labels, probs, _ = noisy(n=300)
    assert np.isfinite(label_quality(labels, probs, features=np.ones((300, 4)))).all()
    holes = np.random.default_rng(0).normal(size=(300, 4))
    holes[:50] = np.nan
    assert np.isfinite(label_quality(labels, probs, features=holes)).all()


def test_issues_say_why_which_class_and_how_sure():
    labels, probs, wrong = noisy()
    names = ("eczema", "psoriasis", "acne", "tinea", "wart")
    ids = np.array([f"im{i}" for i in range(600)], dtype=object)
    table = issues_table(ids, labels, [probs], class_names=names)
    assert table["rank"].tolist() == list(range(1, 601))
    assert table["label_quality"].is_monotonic_increasing
    by_id = table.set_index("image_id").loc[ids]
    np.testing.assert_allclose(by_id["label_quality"], label_quality(labels, probs))
    assert by_id["given_label"].tolist() == [names[g] for g in labels]
    worst = table.iloc[0]
    assert worst["reason"].startswith(f"labelled {worst['given_label']}")
    assert worst["predicted_label"] in worst["reason"]
    assert wrong[int(worst["image_id"][2:])]


def test_a_class_nobody_gives_is_listed_apart_and_cleanlab_finds_none_of_it():
    """`other` as the third class: labels never say it, the model does, and no filter can flag it there."""
    labels, probs, _ = noisy(n=300, K=3, noise=0.0)
    is_other = labels == 2
    given = np.where(is_other, 0, labels)
    table = absent_class_table(np.arange(300), given, probs, class_names=("a", "b", "other"))
    assert set(table["absent_class"]) == {"other"}
    assert len(set(table["image_id"]) & set(np.flatnonzero(is_other))) > 0.8 * is_other.sum()
    assert table["probability"].is_monotonic_decreasing
    assert absent_class_table(np.arange(300), labels, probs, class_names=("a", "b", "c")).empty


def test_the_confident_joint_is_that_of_cleanlab():
    from cleanlab.count import compute_confident_joint

    labels, probs, _ = noisy(n=2000)
    ours = confident_joint(labels, probs)
    theirs = compute_confident_joint(labels, probs, calibrate=False)
    np.testing.assert_array_equal(ours, theirs)


def test_class_tables_find_the_class_whose_labels_are_wrong():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=900)
    probs = np.full((900, 3), 0.05)
    probs[np.arange(900), truth] = 0.9
    labels = truth.copy()
    moved = np.flatnonzero(truth == 1)[:90]
    labels[moved] = 0  # psoriasis labelled eczema
    names = ("eczema", "psoriasis", "acne")
    overlap = class_overlap(labels, probs, class_names=names).iloc[0]
    assert (overlap["given_label"], overlap["likely_label"]) == ("eczema", "psoriasis")
    assert overlap["n_images"] == pytest.approx(90)
    health = class_health(labels, probs, class_names=names, quality=own(probs, labels))
    assert health["class_name"].iloc[0] == "eczema"
    assert health["label_noise"].iloc[0] == pytest.approx(90 / (labels == 0).sum())
    assert np.isnan(
        class_health(labels, np.c_[probs, np.zeros(900)], class_names=(*names, "rare"), quality=labels * 0.0)
        .set_index("class_name")
        .loc["rare", "label_quality"]
    )


def test_an_unknown_filter_is_named_and_one_class_flags_nothing():
    labels, probs, _ = noisy(n=50)
    with pytest.raises(ValueError, match="filter_by must be one of prune_by_noise_rate"):
        label_issue_mask(labels, probs, filter_by="all")
    assert not label_issue_mask(np.zeros(50, int), probs).any()
    assert len(label_quality_scores(np.empty(0, int), np.empty((0, 3)))) == 0


def test_the_posterior_is_a_chance_that_comes_true():
    """The mean stated chance that the model is right is the share that is."""
    labels, probs, _ = noisy(n=20000, margin=1.5)
    truth = np.random.default_rng(0).integers(5, size=20000)  # the first draw of `noisy`
    right = probs.argmax(axis=1) == truth
    assert expected_correct(labels, probs).mean() == pytest.approx(right.mean(), abs=0.03)
    np.testing.assert_allclose(posterior(labels, probs).sum(axis=1), 1)
    assert posterior(np.empty(0, int), np.empty((0, 3))).shape == (0, 3)


def test_strata_are_ordered_by_chance_and_never_mix_agreement():
    rng = np.random.default_rng(0)
    chance, agreed = rng.random(500), rng.random(500) < 0.7
    strata = strata_of(chance, agreed, n_strata=8)
    assert strata.max() <= 7
    for k in range(strata.max() + 1):
        assert len(np.unique(agreed[strata == k])) == 1
    for part in (agreed, ~agreed):
        order = np.argsort(chance[part])
        assert (np.diff(strata[part][order]) >= 0).all()
    with pytest.raises(ValueError, match="n_strata must be at least 2"):
        strata_of(chance, agreed, n_strata=1)


@pytest.fixture(scope="module")
def benchmark(real_data):
    spec = importlib.util.spec_from_file_location("ranking_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.real_data
def test_the_vetted_images_of_cifar10_are_ranked_and_flagged_as_published(benchmark, real_data):
    case = benchmark.vetted(real_data / "label_errors", "CIFAR-10 test", "cifar10")
    assert np.nansum(case.is_wrong) == 54
    rows = {row["signal"]: row for row in benchmark.average_precisions(case)}
    for name, vetted, whole in (
        ("self-confidence", 0.277, 0.236),
        ("margin", 0.285, 0.285),
        ("weighted entropy", 0.243, 0.148),
    ):
        assert rows[name]["ap"] == pytest.approx(vetted, abs=5e-4)
        assert rows[name]["ap_all"] == pytest.approx(whole, abs=5e-4)
    flagged = {row["filter"]: (row["flagged"], row["wrong"]) for row in benchmark.filters(case)}
    assert flagged == {
        "prune_by_noise_rate": (284, 49),
        "prune_by_class": (284, 46),
        "both": (226, 44),
        "confident_learning": (244, 48),
        "predicted_neq_given": (706, 54),
        "low_normalized_margin": (244, 50),
        "low_self_confidence": (244, 41),
    }


@pytest.mark.real_data
def test_on_hand_checked_errors_quality_beats_each_model_and_their_mean(benchmark, real_data):
    for case in benchmark.cases(real_data):
        if case.name.startswith("hand-checked"):
            rows = {row["signal"]: row["ap"] for row in benchmark.average_precisions(case)}
            peer = rows.get("self-confidence", rows.get("mean probability"))
            assert rows["label_quality"] >= peer + 0.015, case.name


@pytest.mark.slow
@pytest.mark.real_data
def test_on_every_noise_at_hand_quality_is_no_worse_than_its_peer(benchmark, real_data):
    """Self-confidence of one model, the mean probability of two; goal .005 in the mean over real noise."""
    gains = {}
    for case in benchmark.cases(real_data):
        rows = {row["signal"]: row["ap"] for row in benchmark.average_precisions(case)}
        peer = rows.get("self-confidence", rows.get("mean probability"))
        gains[case.name] = rows["label_quality"] - peer
        assert gains[case.name] >= (0 if "both" in case.name else -0.002), case.name
    real = [g for name, g in gains.items() if name.startswith(("CIFAR-10N", "hand"))]
    assert len(real) == 6
    assert np.mean(real) >= 0.005


@pytest.mark.parametrize("seed", range(3))
def test_an_opinion_of_noise_is_not_heard(seed):
    """On a small split the weights it would be given cost more than it tells."""
    labels, probs, _ = noisy(seed, n=300)
    noise = np.random.default_rng(seed).dirichlet(np.ones(5), size=300)
    np.testing.assert_array_equal(recalibrated(labels, probs, opinions=[noise]), recalibrated(labels, probs))
