"""Discrimination: does the model tell the classes apart?"""

import numpy as np
import pytest
from sklearn import metrics as sk

from ddeval.metrics import discrimination
from ddeval.metrics.arrays import top_class
from ddeval.metrics.discrimination import (
    Confusion,
    auroc_macro,
    auroc_weighted,
    average_precision_macro,
    balanced_accuracy,
    class_rates,
    cohen_kappa,
    confusion,
    macro_f1,
    mcc,
    top_k_accuracy,
    weighted_f1,
)
from ddeval.metrics.ranking import Rankings
from tests import reference

METRICS = {
    name: getattr(discrimination, name)
    for name in (
        "balanced_accuracy",
        "macro_f1",
        "weighted_f1",
        "mcc",
        "cohen_kappa",
        "auroc_macro",
        "auroc_weighted",
        "average_precision_macro",
    )
}


def random_case(seed, *, has_ties=False, has_all_classes=True):
    """20 to 80 images of 2 to 6 classes; with ties, probabilities are in tenths."""
    rng = np.random.default_rng(seed)
    n_classes, n_images = int(rng.integers(2, 7)), int(rng.integers(20, 80))
    labels = rng.integers(n_classes, size=n_images)
    if has_all_classes:
        labels[:n_classes] = np.arange(n_classes)
    logits = rng.normal(size=(n_images, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if has_ties:
        tenths = np.floor(probs * 10)
        tenths[:, 0] += 10 - tenths.sum(axis=1)
        probs = tenths / 10
    return labels, probs


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("has_ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(10))
def test_metrics_match_their_definition(name, seed, has_ties):
    labels, probs = random_case(seed, has_ties=has_ties)
    assert METRICS[name](labels, probs) == pytest.approx(getattr(reference, name)(labels, probs), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_top_k_accuracy_matches_its_definition(k, seed):
    labels, probs = random_case(seed, has_ties=seed % 2 == 1)
    assert top_k_accuracy(labels, probs, k) == pytest.approx(reference.top_k_accuracy(labels, probs, k))


@pytest.mark.parametrize("seed", range(10))
def test_scikit_learn_gives_the_same_numbers_under_weights(seed):
    """On weights 1 to 3 and no ties; macro areas are scikit-learn's one-against-the-rest ones."""
    labels, probs = random_case(seed)
    predicted, one_hot = probs.argmax(axis=1), np.eye(probs.shape[1])[labels]
    weights = np.random.default_rng(seed).integers(1, 4, size=len(labels)).astype(float)
    columns = range(probs.shape[1])

    def one_vs_rest(area):
        return [area(one_hot[:, k], probs[:, k], sample_weight=weights) for k in columns]

    expected = {
        balanced_accuracy: sk.balanced_accuracy_score(labels, predicted, sample_weight=weights),
        macro_f1: sk.f1_score(labels, predicted, average="macro", sample_weight=weights),
        weighted_f1: sk.f1_score(labels, predicted, average="weighted", sample_weight=weights),
        mcc: sk.matthews_corrcoef(labels, predicted, sample_weight=weights),
        cohen_kappa: sk.cohen_kappa_score(labels, predicted, sample_weight=weights),
        auroc_macro: np.mean(one_vs_rest(sk.roc_auc_score)),
        auroc_weighted: np.average(one_vs_rest(sk.roc_auc_score), weights=weights @ one_hot),
        average_precision_macro: np.mean(one_vs_rest(sk.average_precision_score)),
        top_k_accuracy: sk.accuracy_score(labels, predicted, sample_weight=weights),
    }
    measured = {metric: metric(labels, probs, weights=weights) for metric in expected}
    assert measured == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_areas_are_scikit_learns_under_weights_with_ties(seed):
    labels, probs = random_case(seed, has_ties=True)
    weights = np.random.default_rng(seed).integers(1, 4, size=len(labels)).astype(float)
    for metric, area in (
        (auroc_macro, sk.roc_auc_score),
        (average_precision_macro, sk.average_precision_score),
    ):
        areas = [area(labels == k, probs[:, k], sample_weight=weights) for k in range(probs.shape[1])]
        assert metric(labels, probs, weights=weights) == pytest.approx(np.mean(areas), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_confusion_matrix_is_scikit_learns(seed):
    labels, probs = random_case(seed)
    np.testing.assert_array_equal(confusion(labels, probs), sk.confusion_matrix(labels, probs.argmax(axis=1)))


def class_numbers(labels, probs, k):
    """The rates and areas of one class, as `ddeval.metrics.measures` puts them together."""
    ones = np.ones((1, len(labels)))
    counts = Confusion.of(labels, probs).counts(ones)
    auroc, average_precision = Rankings.of(labels, probs).areas(ones)
    numbers = {"n": counts.sum(axis=2), "auroc": auroc, "average_precision": average_precision}
    return {name: values[0, k] for name, values in (numbers | class_rates(counts)).items()}


def test_a_class_is_worked_by_hand():
    """Class 0 of five images: found 2 of 3, said 3 times and right twice, and of the others 1 of 2 is spared.

    Scores of class 0 falling: 0.9 (yes), 0.8 (no), 0.7 (yes), 0.3 (no), 0.2 (yes). Pairs in order:
    0.9 beats both, 0.7 beats one, 0.2 none: 3 of 6. Precision at each yes 1/1, 2/3, 3/5, mean 34/45.
    """
    p = np.array([0.9, 0.8, 0.7, 0.3, 0.2])
    row = class_numbers(np.array([0, 1, 0, 1, 0]), np.column_stack([p, 1 - p]), 0)
    expected = {
        "n": 3,
        "sensitivity": 2 / 3,
        "specificity": 1 / 2,
        "ppv": 2 / 3,
        "npv": 1 / 2,
        "f1": 2 / 3,
        "labelled_share": 3 / 5,
        "predicted_share": 3 / 5,
        "share_ratio": 1.0,
        "auroc": 1 / 2,
        "average_precision": 34 / 45,
    }
    assert row == pytest.approx(expected)


@pytest.mark.parametrize("k", range(4))
def test_rates_of_a_class_match_their_definition(k):
    labels, probs = random_case(7)
    tp, fp, fn, tn = reference.class_counts(labels, probs, k)
    row = class_numbers(labels, probs, k)
    measured = [row[name] for name in ("sensitivity", "specificity", "ppv", "npv", "f1", "share_ratio")]
    f1, share_ratio = 2 * tp / (2 * tp + fp + fn), (tp + fp) / (tp + fn)
    assert measured == pytest.approx(
        [tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn), f1, share_ratio]
    )


def test_a_tie_counts_against_the_model_in_every_metric_alike():
    """Two classes at one half: the label is not found, whichever comes first, and the diagonal agrees."""
    labels, probs = np.array([0, 1]), np.full((2, 2), 0.5)
    assert top_k_accuracy(labels, probs) == 0.0
    assert confusion(labels, probs).tolist() == [[0, 1], [1, 0]]
    assert top_k_accuracy(labels, probs, k=2) == 1.0


@pytest.mark.parametrize("seed", range(10))
def test_accuracy_is_the_diagonal_of_the_confusion_matrix_with_ties_too(seed):
    labels, probs = random_case(seed, has_ties=True)
    share = np.trace(confusion(labels, probs)) / len(labels)
    assert top_k_accuracy(labels, probs) == pytest.approx(share)


def test_in_a_tie_without_the_label_the_first_class_is_predicted():
    assert top_class(np.array([2]), np.array([[0.4, 0.4, 0.2]])).tolist() == [0]


def test_as_many_answers_as_classes_are_always_right():
    labels, probs = random_case(1)
    assert top_k_accuracy(labels, probs, k=probs.shape[1]) == 1.0


@pytest.mark.parametrize("k", [0, -1])
def test_fewer_than_one_answer_is_refused(k):
    labels, probs = random_case(1)
    with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
        top_k_accuracy(labels, probs, k)


def without_class(labels, probs, k):
    held = labels != k
    return labels[held], probs[held]


def test_a_class_without_images_is_left_out_of_means_over_classes():
    """One library counts its AUROC as 0, one as NaN: here .995 stays near .995, as the other classes say."""
    labels, probs = without_class(*random_case(3), 0)
    others = range(1, probs.shape[1])
    aurocs = [sk.roc_auc_score(labels == k, probs[:, k]) for k in others]
    precisions = [sk.average_precision_score(labels == k, probs[:, k]) for k in others]
    assert auroc_macro(labels, probs) == pytest.approx(np.mean(aurocs))
    assert average_precision_macro(labels, probs) == pytest.approx(np.mean(precisions))
    assert balanced_accuracy(labels, probs) == pytest.approx(reference.balanced_accuracy(labels, probs))


def test_a_class_without_images_that_is_predicted_lowers_macro_f1_as_in_scikit_learn():
    labels, probs = without_class(*random_case(3), 0)
    predicted = probs.argmax(axis=1)
    assert (predicted == 0).any()
    assert macro_f1(labels, probs) == pytest.approx(sk.f1_score(labels, predicted, average="macro"))


@pytest.mark.parametrize("name", ["weighted_f1", "auroc_weighted"])
def test_a_mean_by_share_of_the_labels_does_without_an_absent_class(name):
    """A third class that is neither labelled nor predicted weighs nothing, so nothing changes."""
    labels, probs = np.array([0, 0, 1, 1, 1]), np.array([0.9, 0.4, 0.2, 0.3, 0.7])
    two_classes = np.column_stack([probs, 1 - probs])
    three_classes = np.column_stack([two_classes, np.zeros(5)])
    assert METRICS[name](labels, three_classes) == pytest.approx(METRICS[name](labels, two_classes))


def test_a_draw_without_the_images_called_an_unlabelled_class_has_a_macro_f1():
    """Class 2 is never a label, so its F1 is 0 with the one image called so, and without it."""
    labels, probs = np.array([0, 1, 1]), np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    draws = discrimination.macro_f1_draws(labels, probs, np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 0.0]]))
    assert draws.tolist() == pytest.approx([(1 + 2 / 3 + 0) / 3, (1 + 1 + 0) / 3])


def test_a_class_without_images_has_undefined_rates():
    labels, probs = without_class(*random_case(3), 0)
    row = class_numbers(labels, probs, 0)
    assert np.isnan([row[n] for n in ("sensitivity", "share_ratio", "auroc", "average_precision")]).all()
    assert row["n"] == 0
    assert row["ppv"] == 0.0


def test_a_class_never_predicted_has_no_ppv():
    labels, probs = np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])
    row = class_numbers(labels, probs, 1)
    assert np.isnan(row["ppv"])
    assert row["f1"] == 0.0


def test_agreement_with_a_constant_is_undefined():
    """scikit-learn prints 0 for MCC here; a correlation with a constant is no number."""
    labels, probs = np.array([0, 1, 1]), np.array([[0.9, 0.1]] * 3)
    assert np.isnan(mcc(labels, probs))
    assert cohen_kappa(labels, probs) == pytest.approx(0.0)
    for answers in (probs, np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]])):
        assert np.isnan(cohen_kappa(np.zeros(3, dtype=int), answers))


def test_one_class_has_no_auroc():
    labels, probs = np.zeros(4, dtype=int), np.array([[0.9, 0.1]] * 4)
    assert np.isnan(auroc_macro(labels, probs))
    assert average_precision_macro(labels, probs) == 1.0


def test_a_model_that_says_the_same_of_all_images_ranks_by_chance():
    """All scores tie: AUROC 1/2 in each class, average precision the class's share, mean 1/3."""
    labels, probs = np.array([0, 0, 0, 1, 1, 2]), np.array([[0.5, 0.3, 0.2]] * 6)
    assert auroc_macro(labels, probs) == pytest.approx(1 / 2)
    assert average_precision_macro(labels, probs) == pytest.approx(1 / 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("has_ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("name", METRICS)
def test_each_draw_equals_the_metric_under_its_weights(name, has_ties, dtype):
    """Row b of the draws is the metric under weights b, in the float32 of the bootstrap as in float64."""
    labels, probs = random_case(11, has_ties=has_ties)
    weights = np.random.default_rng(0).integers(1, 5, size=(7, len(labels))).astype(dtype)
    draws = getattr(discrimination, f"{name}_draws")(labels, probs, weights)
    one_by_one = [METRICS[name](labels, probs, weights=w) for w in weights]
    np.testing.assert_allclose(draws, one_by_one, rtol=1e-12)


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "auroc_macro", "average_precision_macro"])
def test_a_draw_that_misses_a_class_is_undefined_and_never_a_mean_over_fewer(name):
    """The mean over two classes is another quantity than the mean over three."""
    labels, probs = random_case(11)
    weights = np.ones((2, len(labels)))
    weights[1, (labels == 1) | (probs.argmax(axis=1) == 1)] = 0
    draws = getattr(discrimination, f"{name}_draws")(labels, probs, weights)
    assert np.isnan(draws).tolist() == [False, True]
