"""Golden values: published numbers on real data, and the few that ship with the package."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from ddeval.metrics import golden
from ddeval.metrics.arrays import softmax
from ddeval.metrics.calibration import brier_score, ece, fit_temperature, mce, nll
from ddeval.metrics.discrimination import (
    auroc_macro,
    average_precision_macro,
    balanced_accuracy,
    macro_f1,
    mcc,
    top_k_accuracy,
)
from ddeval.metrics.golden import LABELS, PROBS, Golden, golden_checks
from ddeval.metrics.recalibration import calibrators_table
from ddeval.metrics.selective import augrc, aurc, eaurc, failure_auroc
from ddeval.metrics.smoothing import smooth_ece
from tests import reference

FILES = ("lenet-5-cifar-10", "wideresnet-16-4-cifar-10", "cleanlab-cifar10")

METRICS = {  # name in golden_metrics.json -> metric, tolerance
    "top1": (top_k_accuracy, 1e-6),
    "top3": (lambda labels, probs: top_k_accuracy(labels, probs, k=3), 1e-6),
    "top5": (lambda labels, probs: top_k_accuracy(labels, probs, k=5), 1e-6),
    "balanced_acc": (balanced_accuracy, 1e-6),
    "macro_f1": (macro_f1, 1e-6),
    "mcc": (mcc, 1e-6),
    "auc_ovr_macro": (auroc_macro, 1e-6),
    "ap_macro": (average_precision_macro, 1e-6),
    "nll": (nll, 1e-6),
    "brier": (brier_score, 1e-6),
    "msp_error_auroc": (failure_auroc, 1e-6),
    "ece15": (ece, 2e-4),
    "aurc_fdshifts": (aurc, 2e-4),
    "augrc_fdshifts": (augrc, 2e-4),
    "eaurc_fdshifts": (eaurc, 2e-4),
}


def predictions(real_data, name):
    """Given labels and probabilities of a file, rows renormalised in float64."""
    if name == "cleanlab-cifar10":
        folder = real_data / "label_errors"
        labels = np.load(folder / "cifar10_test_set_original_labels.npy")
        probs = np.load(folder / "cifar10_pred_probs.npy")
    else:
        with np.load(real_data / "calibration" / f"{name}.npz") as file:
            labels, probs = file["ground_truth"], file["predictions"]
    probs = probs.astype(np.float64)
    return labels, probs / probs.sum(axis=1, keepdims=True)


def densenet(real_data):
    with np.load(real_data / "calibration" / "densenet40_cifar10_logits.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.real_data
@pytest.mark.parametrize("name", FILES)
def test_real_predictions_have_their_golden_values(real_data, name):
    """Everything in golden_metrics.json but the conformal lines, whose random split is not recorded."""
    expected = json.loads((real_data / "calibration" / "golden_metrics.json").read_text())[name]
    labels, probs = predictions(real_data, name)
    assert probs.shape == (expected.pop("n"), expected.pop("K"))
    wanted = {key: value for key, value in expected.items() if not key.startswith("lac90_")}
    assert wanted.keys() == METRICS.keys()
    errors = {key: METRICS[key][0](labels, probs) - value for key, value in wanted.items()}
    assert {key: e for key, e in errors.items() if not abs(e) <= METRICS[key][1]} == {}


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "expected"),
    [("wideresnet-16-4-cifar-10", 0.05372), ("cleanlab-cifar10", 0.03213), ("densenet", 0.01102)],
)
def test_smooth_ece_of_real_predictions(real_data, name, expected):
    """WRN is overconfident everywhere, so any method gives its mean gap; the other two are not."""
    if name == "densenet":
        data = densenet(real_data)
        temperature = fit_temperature(data["logits_val"], data["y_val"])
        labels, probs = data["y_test"], softmax(data["logits_test"] / temperature)
    else:
        labels, probs = predictions(real_data, name)
    value = smooth_ece(labels, probs)
    assert value == pytest.approx(expected, abs=3e-5)
    confidence, correct = reference.top_confidence(labels, probs)
    direct = reference.smooth_ece_at(confidence, np.subtract(correct, confidence), value)
    assert direct == pytest.approx(value, abs=1e-5)


@pytest.mark.real_data
def test_temperature_scaling_of_densenet_is_that_of_kull_et_al(real_data):
    """Kull et al. 2019, table of DenseNet-40 on CIFAR-10: fitted on val, judged on test."""
    data = densenet(real_data)
    temperature = fit_temperature(data["logits_val"], data["y_val"])
    assert temperature == pytest.approx(2.8826, abs=1e-4)
    before = softmax(data["logits_test"])
    after = softmax(data["logits_test"] / temperature)
    values = [metric(data["y_test"], before) for metric in (ece, mce, nll)]
    assert values == pytest.approx([0.055003, 0.333955, 0.428207], abs=1e-4)
    values = [metric(data["y_test"], after) for metric in (ece, nll)]
    assert values == pytest.approx([0.009464, 0.225086], abs=1e-4)


@pytest.mark.real_data
def test_netcal_on_float32_logits_of_densenet_is_not_the_no_op_it_would_be(real_data):
    """netcal's temperature scaling of float32 leaves the ECE at .0550; in float64 it reaches .0095."""
    pytest.importorskip("netcal")
    data = densenet(real_data)
    table = calibrators_table(
        data["y_val"],
        data["logits_val"],
        data["y_test"],
        data["logits_test"],
        calibrators=["none", "temperature", "temperature (netcal)", "isotonic regression"],
    ).set_index("calibrator")
    assert data["logits_val"].dtype == np.float32
    assert table.loc["none", "ece"] == pytest.approx(0.0550, abs=1e-4)
    assert table.loc["temperature", "ece"] == pytest.approx(0.0095, abs=1e-4)
    assert table.loc["temperature (netcal)", "ece"] == pytest.approx(0.0095, abs=1e-4)
    assert table.loc["isotonic regression", "ece"] < 0.02


@pytest.mark.real_data
@pytest.mark.parametrize("name", FILES)
def test_netcal_agrees_on_ece_and_mce_of_real_predictions(real_data, name):
    metrics = pytest.importorskip("netcal.metrics")
    labels, probs = predictions(real_data, name)
    assert ece(labels, probs) == pytest.approx(metrics.ECE(15).measure(probs, labels), abs=1e-9)
    assert mce(labels, probs) == pytest.approx(metrics.MCE(15).measure(probs, labels), abs=1e-9)


def test_this_installation_has_every_golden_value():
    checks = golden_checks()
    assert checks.loc[~checks["is_equal"], "check"].tolist() == []
    assert checks["check"].is_unique


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_wrong_or_undefined_value_is_not_equal(monkeypatch, value):
    wrong = Golden("nll", lambda: value, 0.51, 1e-3, "by hand")
    monkeypatch.setattr(golden, "GOLDEN", (wrong,))
    checks = golden_checks()
    assert checks[["check", "expected", "is_equal"]].to_numpy().tolist() == [["nll", 0.51, False]]


def test_the_golden_values_from_scikit_learn_are_scikit_learns():
    predicted, n_classes = PROBS.argmax(axis=1), PROBS.shape[1]
    theirs = {
        "macro_f1": sk.f1_score(LABELS, predicted, average="macro"),
        "mcc": sk.matthews_corrcoef(LABELS, predicted),
        "cohen_kappa": sk.cohen_kappa_score(LABELS, predicted),
        "auroc_macro": sk.roc_auc_score(LABELS, PROBS, multi_class="ovr"),
        "average_precision_macro": np.mean(
            [sk.average_precision_score(k == LABELS, PROBS[:, k]) for k in range(n_classes)]
        ),
        "nll": sk.log_loss(LABELS, PROBS),
    }
    ours = {g.check: g.expected for g in golden.GOLDEN if g.source == "scikit-learn"}
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_the_golden_values_from_slow_loops_are_theirs():
    confidence, correct = reference.top_confidence(LABELS, PROBS)
    theirs = {
        "ece": reference.ece(LABELS, PROBS),
        "mce": reference.mce(LABELS, PROBS),
        "ece_equal_mass": reference.ece_equal_mass(LABELS, PROBS, 3),
        "classwise_ece": reference.classwise_ece(LABELS, PROBS),
        "smooth_ece": reference.smooth_ece(LABELS, PROBS),
        "aurc": reference.aurc(correct, confidence),
    }
    ours = {g.check: g.expected for g in golden.GOLDEN if g.source == "slow loop"}
    assert ours == pytest.approx(theirs, abs=1e-6)
