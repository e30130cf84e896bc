"""The gate of a comparison: written before, answered from intervals, entered once, exit code 1 on fail."""

import json

import numpy as np
import pandas as pd
import pytest

from ddeval.metrics.calibration import ece_interval
from ddeval.metrics.paired import LOWER_IS_BETTER
from ddeval.metrics.resampling import quantile_interval
from ddeval.report.measures import MEASURES
from tests.command import run

CLASSES = ("Eczema", "Melanoma", "Acne")


def made(folder, *, n=240, sexes=("female", "male"), **columns):
    """Two runs on one manifest: `good` is right in 90 %, `poor` in 60 %; two images a patient, two sexes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=n)
    frame = pd.DataFrame(
        {
            "image_id": [f"i{k:03d}" for k in range(n)],
            "label": [CLASSES[k] for k in labels],
            "patient_id": [f"p{k // 2}" for k in range(n)],
            "sex": np.where(np.arange(n) // 2 % 2 == 0, *sexes),
            **columns,
        }
    )
    frame.to_csv(folder / "manifest.csv", index=False)
    for name, accuracy in (("poor", 0.6), ("good", 0.9)):
        answer = np.where(rng.random(n) < accuracy, labels, (labels + 1) % 3)
        probs = np.full((n, 3), 0.1)
        probs[np.arange(n), answer] = 0.8
        pd.DataFrame(probs, columns=list(CLASSES)).assign(image_id=frame["image_id"]).to_csv(
            folder / f"{name}.csv", index=False
        )
        run("score", folder / f"{name}.csv", "--data", folder / "manifest.csv", "--out", folder / name,
            "--n-resamples", 20, "--calibrators", "none")  # fmt: skip
    return folder


def compared(folder, criteria, *more, code=0):
    (folder / "gate.yaml").write_text(json.dumps({"criteria": criteria}))
    found = run("compare", folder / "poor", folder / "good", "--gate", folder / "gate.yaml", "--n-resamples",
                200, "--out", folder / "page.html", "--json", *more, code=code)  # fmt: skip
    return json.loads(found.stdout) if code < 2 else found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return made(tmp_path_factory.mktemp("gate"))


@pytest.mark.parametrize(
    ("criterion", "answer"),
    [
        ({"metric": "top_1_accuracy", "kind": "better", "bound": 0.1}, "pass"),
        ({"metric": "malignant_right", "kind": "not_worse", "bound": 0.02}, "pass"),
        ({"metric": "malignant_missed", "kind": "not_worse", "bound": 0.02}, "pass"),
        ({"metric": "top_1_accuracy", "kind": "at_least", "bound": 0.99}, "fail"),
        ({"metric": "ece", "kind": "at_most", "bound": 0.5}, "pass"),
        ({"metric": "largest_subgroup_gap", "of": "top_1_accuracy", "attribute": "sex", "kind": "at_most",
          "bound": 0.001}, "cannot tell"),
        ({"metric": "top_1_accuracy", "attribute": "sex", "group": "male", "kind": "at_least", "bound": 0.5},
         "pass"),
        ({"metric": "latency_p95_ms", "kind": "at_most", "bound": 250}, "cannot tell"),
    ],
)  # fmt: skip
def test_each_criterion_is_answered_from_its_interval(runs, criterion, answer):
    gate = compared(runs, [criterion | {"name": "it"}], code=1 if answer == "fail" else 0)["gate"]
    assert gate["criteria"][0]["answer"] == answer
    assert gate["answer"] == answer


def test_a_criterion_counts_the_images_it_is_over(runs):
    """Melanomas alone for what becomes of melanomas; everything for top-1."""
    criteria = [
        {"name": "cancers", "metric": "malignant_right", "kind": "at_least", "bound": 0.5},
        {"name": "all", "metric": "top_1_accuracy", "kind": "at_least", "bound": 0.5},
    ]
    told = compared(runs, criteria)["gate"]["criteria"]
    manifest = pd.read_csv(runs / "manifest.csv")
    melanomas = manifest[manifest["label"] == "Melanoma"]
    assert [c["n_images"] for c in told] == [len(melanomas), len(manifest)]
    assert [c["n_groups"] for c in told] == [melanomas["patient_id"].nunique(), 120]


def test_all_right_has_an_exact_lower_end_to_be_judged_by(tmp_path):
    """Sixty melanomas of sixty patients, all found: at least .94, though every resample says 1."""
    labels = np.repeat([1, 0], [60, 60])
    frame = pd.DataFrame({"image_id": [f"i{k}" for k in range(120)], "label": np.array(CLASSES)[labels]})
    frame.to_csv(tmp_path / "manifest.csv", index=False)
    for name in ("poor", "good"):
        probs = np.full((120, 3), 0.1)
        probs[np.arange(120), labels] = 0.8
        pd.DataFrame(probs, columns=list(CLASSES)).assign(image_id=frame["image_id"]).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
        run("score", tmp_path / f"{name}.csv", "--data", tmp_path / "manifest.csv", "--out", tmp_path / name,
            "--n-resamples", 5, "--calibrators", "none")  # fmt: skip
    criteria = [
        {"name": f"{bound}", "metric": "malignant_right", "kind": "at_least", "bound": bound}
        for bound in (0.93, 0.95)
    ]
    told = compared(tmp_path, criteria)["gate"]["criteria"]
    assert told[0]["ci_low"] == pytest.approx(0.025 ** (1 / 60))
    assert [c["answer"] for c in told] == ["pass", "cannot tell"]


def test_what_is_better_low_is_so_for_the_gate_and_for_the_page():
    """`answered_wrong` was not, so that more wrong answers passed for no worse."""
    no_interval = {"ece", "ece_equal_mass", "mce", "classwise_ece", "smooth_ece", "latency_p95_ms"}
    split = {f"{loss}_{part}" for loss in ("nll", "brier_score") for part in ("calibration", "refinement")}
    low = {name for name, about in MEASURES.items() if about.better == "low"} - no_interval - split
    assert set(LOWER_IS_BETTER) - {"calibration_gap"} == low


def test_the_gate_is_asked_of_the_candidate(runs):
    criteria = [{"name": "it", "metric": "top_1_accuracy", "kind": "at_least", "bound": 0.8}]
    assert compared(runs, criteria)["gate"]["run"] == "good"
    of_poor = compared(runs, criteria, "--baseline", "good", "--candidate", "poor", code=1)["gate"]
    assert (of_poor["run"], of_poor["answer"]) == ("poor", "fail")


def test_the_first_look_is_entered_once(runs):
    """The same file asked twice keeps its first time; a changed one is another gate."""
    criteria = [{"name": "first", "metric": "top_1_accuracy", "kind": "at_least", "bound": 0.7}]
    first = compared(runs, criteria)["gate"]
    lines = (runs / "manifest.looks.jsonl").read_text().splitlines()
    assert sum(first["sha256"] in line for line in lines) == 1
    assert compared(runs, criteria)["gate"]["first_look"] == first["first_look"]
    moved = compared(runs, [criteria[0] | {"bound": 0.71}])["gate"]
    assert moved["sha256"] != first["sha256"]


def test_latency_is_judged_by_the_exact_interval_of_its_quantile(runs):
    bench = runs / "bench.json"
    bench.write_text(json.dumps({"checkpoint": "good", "latencies_ms": np.linspace(100, 200, 1000).tolist()}))
    criteria = [{"name": "fast", "metric": "latency_p95_ms", "kind": "at_most", "bound": 250}]
    told = compared(runs, criteria, "--bench", bench)
    found = told["gate"]["criteria"][0]
    assert {a["run"]: a["latency_p95_ms"] for a in told["about"]} == {"good": found["value"], "poor": None}
    assert found["answer"] == "pass"
    assert found["ci_low"] < found["value"] < found["ci_high"] < 200


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ({"metric": "nonsense", "kind": "at_least", "bound": 1}, "the metric 'nonsense'"),
        ({"metric": "largest_subgroup_gap", "kind": "at_most", "bound": 1}, "needs `of`"),
        ({"metric": "ece", "kind": "not_worse", "bound": 1}, "ece can be at_least or at_most"),
        ({"metric": "calibration_gap", "kind": "better", "bound": 0}, "calibration_gap can be at_least or"),
        ({"metric": "malignant_deferred", "kind": "not_worse", "bound": 0}, "malignant_deferred can be at_l"),
        ({"metric": "top_1_accuracy", "attribute": "hat", "group": "red", "kind": "at_least", "bound": 1},
         "the attribute 'hat'"),
        ({"metric": "top_1_accuracy", "kind": "not_worse", "bound": -0.02}, "a margin that is not negative"),
        ({"metric": "top_1_accuracy", "kind": "not_worse", "bound": 2}, "70 % is 0.7"),
        ({"metric": "top_1_accuracy", "attribute": "sex", "group": "male", "subset": "cases",
          "kind": "at_least", "bound": 0.5}, "no `subset`"),
        ({"metric": "top_1_accuracy", "of": "mcc", "kind": "at_least", "bound": 0.5}, "`of` beside"),
        ({"metric": "largest_subgroup_gap", "of": "top_1_accuracy", "attribute": "sex", "group": "male",
          "kind": "at_most", "bound": 0.1}, "no `group`"),
        ({"metric": "top_1_accuracy", "attribute": "sex", "kind": "at_least", "bound": 0.5}, "the `group`"),
    ],
)  # fmt: skip
def test_a_criterion_nobody_can_answer_is_refused_by_name(runs, criterion, message):
    assert message in compared(runs, [criterion | {"name": "it"}], code=3).output


@pytest.mark.parametrize("repeats", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_the_interval_of_the_ece_holds_zero_for_a_calibrated_model(repeats):
    """Truth 0 is inside in 95 % or more; a bootstrap interval would hold it never."""
    held = 0
    for seed in range(repeats):
        rng = np.random.default_rng([seed, 5])
        probs = rng.dirichlet(np.ones(3), size=200)
        labels = (probs.cumsum(axis=1) > rng.random((200, 1))).argmax(axis=1)
        found = ece_interval(labels, probs, groups=np.arange(200), rng=rng, n_resamples=200)
        held += found.ci_low == 0
    assert held / repeats >= 0.93


def test_an_exact_interval_of_a_quantile_covers_in_its_share_of_samples():
    """p95 of 200 exponentials: true value ln 20."""
    rng = np.random.default_rng(0)
    ends = [quantile_interval(rng.exponential(size=200), 0.95)[1:] for _ in range(1000)]
    assert np.mean([low <= np.log(20) <= high for low, high in ends]) == pytest.approx(0.955, abs=0.02)


def test_few_values_have_no_upper_end_of_a_quantile():
    value, low, high = quantile_interval(np.arange(20.0), 0.95)
    assert low < value
    assert np.isnan(high)
