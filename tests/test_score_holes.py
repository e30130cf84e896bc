"""Labels and answers with holes, through score, compare and abstain: NaN with its n and a sentence.

Never a crash, never a silent 0: one class only, a class without an image, one image, a subgroup of one
patient, ties everywhere, everything answered `other`.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ddeval.cli import app

CLASSES = ("Eczema", "Melanoma", "Acne", "other")


def run(*arguments, code=0):
    found = CliRunner().invoke(app, [str(a) for a in arguments])
    assert found.exit_code == code, found.output
    return found


def made(folder, labels, logits, *, sex=None, split=None):
    """A manifest of one patient an image and two runs: the logits, and the same with two classes swapped."""
    n = len(labels)
    frame = pd.DataFrame(
        {
            "image_id": [f"i{k:03d}" for k in range(n)],
            "label": labels,
            "patient_id": [f"p{k}" for k in range(n)],
            "sex": ["female"] * n if sex is None else sex,
            "split": ["test"] * n if split is None else split,
        }
    )
    frame.to_csv(folder / "manifest.csv", index=False)
    for name, columns in (("a", [0, 1, 2, 3]), ("b", [1, 0, 2, 3])):
        answers = pd.DataFrame(np.asarray(logits, dtype=float)[:, columns], columns=list(CLASSES))
        answers.assign(image_id=frame["image_id"]).to_csv(folder / f"{name}.csv", index=False)
    return folder


def scored(folder, name):
    found = run("score", folder / f"{name}.csv", "--values", "logits", "--other-class", "other", "--data",
                folder / "manifest.csv", "--out", folder / name, "--n-resamples", 30, "--json")  # fmt: skip
    return json.loads(found.stdout)


def both(folder):
    """JSON of run a, and of its comparison with run b; both pages are there and say what is undefined."""
    one = scored(folder, "a")
    scored(folder, "b")
    found = run("compare", folder / "a", folder / "b", "--n-resamples", 30, "--json", "--out",
                folder / "page.html")  # fmt: skip
    return one, json.loads(found.stdout)


def answers(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 4))


def value(told, metric, run="a"):
    (found,) = [
        row["value"]
        for row in told["values"]
        if (row["run"], row["metric"], row["subset"]) == (run, metric, "all")
    ]
    return found


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text()))


def test_one_class_only_has_no_auroc_and_no_correlation(tmp_path):
    """Every image is Eczema: accuracy and its interval stand, what needs a second class is NaN with n."""
    one, two = both(made(tmp_path, ["Eczema"] * 40, answers(40)))
    assert one["metrics"]["top_1_accuracy"]["value"] is not None
    for metric in ("auroc_macro", "mcc", "cohen_kappa"):
        assert one["metrics"][metric]["value"] is None, metric
        assert one["metrics"][metric]["n_images"] == 40
    assert value(two, "auroc_macro") is None
    (lost,) = [d for d in two["differences"] if d["metric"] == "auroc_macro" and d["subset"] == "all"]
    assert (lost["difference"], lost["p_value"], lost["ci_low"]) == (None, None, None)
    assert "n/a" in text_of(tmp_path / "page.html")
    assert one["per_class"]["Melanoma"]["sensitivity"]["value"] is None


def test_a_class_without_an_image_is_in_no_mean_and_named(tmp_path):
    labels = np.array(["Eczema", "Acne", "other"])[np.arange(60) % 3]
    folder = made(tmp_path, labels, answers(60))
    found = run("score", folder / "a.csv", "--values", "logits", "--other-class", "other", "--data",
                folder / "manifest.csv", "--out", folder / "a", "--n-resamples", 30)  # fmt: skip
    assert "classes without an image, in no mean over classes: Melanoma" in found.output
    one, two = both(folder)
    assert one["per_class"]["Melanoma"]["sensitivity"]["value"] is None
    assert one["per_class"]["Melanoma"]["auroc"]["value"] is None
    held = [one["per_class"][name]["sensitivity"]["value"] for name in ("Eczema", "Acne")]
    assert one["metrics"]["balanced_accuracy"]["value"] == pytest.approx(np.mean(held))
    assert value(two, "balanced_accuracy") == pytest.approx(np.mean(held))
    assert not [h for h in two.get("harm", []) if h["group"] == "malignant"]


def test_one_image_has_numbers_without_a_spread(tmp_path):
    """One of one is right: no standard error, no gap, nothing that needs a second image; and no 0."""
    one, two = both(made(tmp_path, ["Eczema"], [[3.0, 0, 0, 0]]))
    top_1 = one["metrics"]["top_1_accuracy"]
    assert (top_1["value"], top_1["n_images"], top_1["n_groups"]) == (1.0, 1, 1)
    assert one["metrics"]["auroc_macro"]["value"] is None
    assert (two["mcnemar"][0]["se_paired"], two["mcnemar"][0]["se_unpaired"]) == (None, None)
    assert (two["n_images"], two["n_groups"]) == (1, 1)
    assert all(row["value"] is None for row in two["subgroups"])


def test_a_subgroup_of_one_patient_is_named_and_not_shown(tmp_path):
    sex = ["male"] + ["female"] * 39
    _, two = both(made(tmp_path, np.array(CLASSES[:3])[np.arange(40) % 3], answers(40), sex=sex))
    rows = {row["group"]: row for row in two["subgroups"] if row["metric"] == "top_1_accuracy"}
    assert (rows["male"]["value"], rows["male"]["n_images"], rows["male"]["n_groups"]) == (None, 1, 1)
    assert rows["male"]["note"] == "fewer than 20 patients (1): not shown"
    assert rows["female"]["value"] is not None
    assert rows["female"]["gap"] is None
    assert rows["female"]["note"] == "gap: cannot tell, the rest has fewer than 20 patients (1)"
    for page in (tmp_path / "a" / "report.html", tmp_path / "page.html"):
        assert "Too few patients to be shown: male (1)" in text_of(page)


def test_ties_count_against_the_model_and_rank_nothing(tmp_path):
    """Equal logits everywhere: nobody is right, every AUROC is .5, the runs cannot be told apart."""
    labels = np.array(CLASSES)[np.arange(40) % 4]
    one, two = both(made(tmp_path, labels, np.zeros((40, 4))))
    assert one["metrics"]["top_1_accuracy"]["value"] == 0.0
    assert one["metrics"]["auroc_macro"]["value"] == 0.5
    (same,) = [d for d in two["differences"] if d["metric"] == "top_1_accuracy" and d["subset"] == "all"]
    assert (same["difference"], same["p_holm"]) == (0.0, 1.0)
    assert two["mcnemar"][0]["p_value"] == 1.0
    best = {b["run"]: b["is_in_best_set"] for b in two["best"] if b["metric"] == "top_1_accuracy"}
    assert best == {"a": True, "b": True}


def test_where_everything_is_deferred_the_risk_is_undefined(tmp_path):
    """`other` is answered surely to every image: no answer is given, so there is no risk of one."""
    logits = np.tile([0.0, 0.0, 0.0, 30.0], (40, 1)) + 0.01 * answers(40)
    labels = np.array(CLASSES)[np.arange(40) % 4]
    one, two = both(made(tmp_path, labels, logits))
    assert one["metrics"]["target_deferred"]["value"] == 1.0
    assert one["metrics"]["open_top_1_accuracy"]["value"] == 0.25
    assert one["metrics"]["other_sensitivity"]["value"] == 1.0
    harm = {h["outcome"]: h["share"] for h in two["harm"] if h["run"] == "a" and h["group"] == "malignant"}
    assert harm == {"right": 0.0, "deferred": 1.0, "missed": 0.0}


HOLES = {
    "one class only": (["Eczema"] * 40, answers(40)),
    "an absent class": (np.array(["Eczema", "Acne"])[np.arange(40) % 2], answers(40)),
    "one image": (["Eczema"], [[3.0, 0, 0, 0]]),
    "ties": (np.array(CLASSES)[np.arange(40) % 4], np.zeros((40, 4))),
    "all abstained": (np.array(CLASSES)[np.arange(40) % 4], np.tile([0.0, 0, 0, 30], (40, 1))),
    "two of a class": (["Eczema", "Eczema"], [[3.0, 0, 0, 0]] * 2),
    "only `other`": (["other"] * 40, answers(40)),
}


@pytest.mark.parametrize("rule", ["max_probability", "energy"])
@pytest.mark.parametrize("hole", HOLES)
def test_a_rule_that_cannot_be_shown_defers_everything_and_says_so(tmp_path, hole, rule):
    """The same images to calibrate and to judge: too few, tied, or never answered, so nothing is promised."""
    labels, logits = HOLES[hole]
    labels, logits = list(labels) * 2, np.vstack([logits, logits])
    split = ["calibration"] * (len(labels) // 2) + ["test"] * (len(labels) // 2)
    folder = made(tmp_path, labels, logits, split=split)
    scored(folder, "a")
    found = run("abstain", folder / "a", "--risk", 0.02, "--rule", rule, "--out", folder / "rule.json",
                "--json", "--n-resamples", 20, code=1)  # fmt: skip
    told = json.loads(found.stdout)
    assert (told["answers_nothing"], told["n_answered"], told["risk_upper"]) == (True, 0, None)
    assert told["n_rows"] + told["n_rows_temperature"] == len(labels) // 2
    assert (told["judged"]["coverage"], told["judged"]["risk"]) == (0.0, None)
    assert "the rule defers everything" in found.stderr
    vectors = json.loads((folder / "abstain_vectors.json").read_text())["vectors"]
    assert {vector["decision"] for vector in vectors} == {"defer"}
    said = run("abstain", folder / "a", "--risk", 0.02, "--rule", rule, "--out", folder / "rule.json",
               "--n-resamples", 20, code=1).output  # fmt: skip
    assert not re.search(r"(?i)nan", said)


def test_a_rule_that_is_never_asked_has_no_risk_where_it_is_judged(tmp_path):
    """It answers on the calibration split; every photograph of the judged one is answered `other`."""
    labels = list(np.array(CLASSES[:3])[np.arange(600) % 3])
    right = 12.0 * np.eye(4)[np.arange(600) % 3] + answers(600)
    split = ["calibration"] * 560 + ["test"] * 40
    right[560:] = [0.0, 0.0, 0.0, 30.0]
    folder = made(tmp_path, labels, right, split=split)
    scored(folder, "a")
    said = run("abstain", folder / "a", "--risk", 0.05, "--out", folder / "rule.json", "--n-resamples", 20)
    assert "answers 0.0% of 40, risk n/a, at most n/a" in said.output


@pytest.mark.parametrize("hole", HOLES)
def test_every_hole_is_said_in_words_and_verifies(tmp_path, hole):
    """No `nan` reaches a reader, in the terminal or on a page, and every stored number is made again."""
    folder = made(tmp_path, *HOLES[hole])
    both(folder)
    said = run("score", folder / "a", "--n-resamples", 30, "--report", folder / "again.html").output
    said += run("compare", folder / "a", folder / "b", "--n-resamples", 30, "--out", folder / "p.html").output
    said += text_of(folder / "again.html") + text_of(folder / "p.html")
    assert not re.search(r"(?i)\bnan\b", said)
    run("verify", folder / "a")
