"""Outcomes under a deferral rule: right, deferred, missed as the serving code of the docs would act."""

import json

import numpy as np
import pandas as pd
import pytest

from ddeval import io
from ddeval.errors import InputError
from ddeval.score.deferral import deferred, read_rule
from ddeval.score.predictions import Predictions
from tests.test_score_abstain import CLASSES, made, run, should_defer


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return made(tmp_path_factory.mktemp("deferral"))


def rule_of(scored, out, *, unit="image"):
    run("abstain", scored / "run", "--risk", 0.25, "--unit", unit, "--out", out, "--n-resamples", 5)
    return out


def judged(folder):
    """Test rows of the user's files: labels, logits (float32 as they are stored) and cases."""
    manifest = pd.read_csv(folder / "manifest.csv").set_index("image_id")
    manifest = manifest[manifest["split"] == "test"]
    answers = pd.read_csv(folder / "answers.csv").set_index("image_id").loc[manifest.index, list(CLASSES)]
    return (
        manifest["label"].to_numpy(),
        answers.to_numpy().astype(np.float32).astype(float),
        manifest["case_id"],
    )


def outcomes(scored, rule, *, unit):
    """Share of melanomas right, deferred and missed, of answers, and of wrong ones, by the docs' own code."""
    decide = should_defer()
    labels, logits, cases = judged(scored)
    asked = logits
    if unit == "case":
        means = pd.DataFrame(logits).groupby(cases.to_numpy()).mean()
        asked = means.loc[cases].to_numpy()
    deferred = np.array([decide(row.tolist(), rule) for row in asked])
    answer = np.array(CLASSES)[logits.argmax(axis=1)]
    deferred_here = deferred | (answer == "other")
    melanoma = labels == "melanoma"
    right = melanoma & (answer == "melanoma") & ~deferred
    missed = melanoma & ~right & ~deferred_here
    kept = ~deferred_here
    return {
        "malignant_right": right.sum() / melanoma.sum(),
        "malignant_deferred": (melanoma & deferred_here).sum() / melanoma.sum(),
        "malignant_missed": missed.sum() / melanoma.sum(),
        "answered": kept.mean(),
        "answered_wrong": (kept & (answer != labels)).sum() / kept.sum(),
    }


@pytest.mark.parametrize("unit", ["image", "case"])
def test_a_run_tells_its_outcomes_under_the_rule_as_the_serving_code_acts(scored, tmp_path, unit):
    path = rule_of(scored, tmp_path / "abstain.json", unit=unit)
    run("score", scored / "run", "--abstain", path, "--n-resamples", 20, "--report", tmp_path / "page.html")
    metrics = io.read_parquet(scored / "run" / "labels-v0" / "metrics.parquet")[0]
    under = metrics[metrics["subset"] == "deferring"].set_index("metric")
    for name, value in outcomes(scored, json.loads(path.read_text()), unit=unit).items():
        assert under.loc[name, "value"] == pytest.approx(value), name
        assert under.loc[name, "ci_low"] <= value <= under.loc[name, "ci_high"]
    plain = metrics[metrics["subset"] == "all"].set_index("metric")
    assert under.loc["malignant_missed", "value"] < plain.loc["malignant_missed", "value"]
    assert under.loc["malignant_deferred", "value"] > plain.loc["malignant_deferred", "value"]

    harm = io.read_parquet(scored / "run" / "labels-v0" / "curves" / "harm_deferring.parquet")[0]
    assert harm.groupby("group")["n_images"].sum()["malignant"] == (judged(scored)[0] == "melanoma").sum()
    page = (tmp_path / "page.html").read_text()
    assert "The same under the deferral rule" in page
    assert f"{100 * under.loc['answered', 'value']:.1f}" in page[page.index("kept-table") :]
    run("verify", scored / "run")
    traced = run("trace", scored / "run", "answered", "--subset", "deferring")
    assert str(path) in traced.output


def test_who_is_handed_over_more_is_told_by_subgroup(tmp_path):
    """Women's photographs get flat logits: the rule hands over more of them than of the men's."""
    folder = made(tmp_path / "r")
    manifest, answers = (pd.read_csv(folder / f"{name}.csv") for name in ("manifest", "answers"))
    manifest["sex"] = np.where(np.arange(len(manifest)) // 2 % 2 == 0, "female", "male")
    manifest.to_csv(folder / "manifest.csv", index=False)
    answers.loc[manifest["sex"] == "female", list(CLASSES)] *= 0.5
    answers.to_csv(folder / "answers.csv", index=False)
    run("score", folder / "answers.csv", "--values", "logits", "--data", folder / "manifest.csv", "--out",
        folder / "again", "--other-class", "other", "--n-resamples", 10, "--calibrators", "none")  # fmt: skip
    run("abstain", folder / "again", "--risk", 0.25, "--out", tmp_path / "a.json", "--n-resamples", 5)
    run("score", folder / "again", "--abstain", tmp_path / "a.json", "--n-resamples", 50)
    curves = folder / "again" / "labels-v0" / "curves"
    rows, plain = (
        io.read_parquet(curves / f"{name}.parquet")[0].set_index(["metric", "group"])
        for name in ("subgroups_deferring", "subgroups")
    )
    rule = json.loads((tmp_path / "a.json").read_text())
    labels, logits, _ = judged(folder)
    is_target = labels != "other"
    deferred = np.array([should_defer()(row.tolist(), rule) for row in logits])[is_target]
    female = (manifest["sex"] == "female").to_numpy()[-len(labels) :][is_target]
    assert rows.loc[("target_deferred", "female"), "value"] == pytest.approx(deferred[female].mean())
    assert rows.loc[("target_deferred", "male"), "value"] == pytest.approx(deferred[~female].mean())
    assert rows.loc[("target_deferred", "female"), "gap_low"] > 0
    assert (
        plain.loc[("target_deferred", "female"), "value"] < rows.loc[("target_deferred", "female"), "value"]
    )
    assert set(rows.index.get_level_values(0)) == {
        "target_deferred", "malignant_right", "malignant_deferred", "malignant_missed",
    }  # fmt: skip


def test_a_rule_made_for_another_checkpoint_is_applied_and_said_to_promise_nothing(scored, tmp_path):
    other = made(tmp_path / "b", sharpness=2.0)
    path = rule_of(other, tmp_path / "abstain.json")
    found = run("score", scored / "run", "--abstain", path, "--n-resamples", 5)
    assert "made for another checkpoint" in found.output


def test_a_comparison_tells_each_run_under_its_own_rule_and_the_gate_may_ask(scored, tmp_path):
    second = made(tmp_path / "b", sharpness=2.5)
    answers = pd.read_csv(scored / "answers.csv")
    answers[list(CLASSES)] += np.random.default_rng(1).normal(size=(len(answers), 4))
    answers.to_csv(second / "answers.csv", index=False)
    answers.rename(columns={}).to_csv(second / "b.csv", index=False)
    run("score", second / "b.csv", "--values", "logits", "--data", scored / "manifest.csv", "--out",
        second / "b", "--other-class", "other", "--n-resamples", 10, "--calibrators", "none")  # fmt: skip
    rule_of(scored, tmp_path / "a.json")
    run("abstain", second / "b", "--risk", 0.3, "--out", tmp_path / "b.json", "--n-resamples", 5)
    (tmp_path / "gate.yaml").write_text(
        "criteria:\n  - {name: few, metric: malignant_missed, subset: deferring, kind: at_most, bound: 0.5}\n"
    )
    found = run("compare", scored / "run", second / "b", "--abstain", tmp_path / "a.json", "--abstain",
                tmp_path / "b.json", "--gate", tmp_path / "gate.yaml", "--json", "--n-resamples", 50,
                "--out", tmp_path / "page.html")  # fmt: skip
    told = json.loads(found.stdout)
    kept = {(row["run"], row["metric"]): row["value"] for row in told["deferring"]}
    for name, folder in (("a", scored), ("b", second)):
        rule = json.loads((tmp_path / f"{name}.json").read_text())
        expected = outcomes(folder, rule, unit="image")
        run_name = "answers" if name == "a" else "b"
        assert kept[run_name, "answered"] == pytest.approx(expected["answered"])
        assert kept[run_name, "answered_wrong"] == pytest.approx(expected["answered_wrong"])
        harm = {r["outcome"]: r["share"] for r in told["harm_deferring"]
                if (r["run"], r["group"]) == (run_name, "malignant")}  # fmt: skip
        assert harm["missed"] == pytest.approx(expected["malignant_missed"])
        if name == "b":
            (criterion,) = told["gate"]["criteria"]
            assert criterion["value"] == pytest.approx(expected["malignant_missed"])
            assert criterion["answer"] == "pass"
    assert all(row["has_rule"] for row in told["deferring"])
    assert told["parity"][0]["n_deferrals_changed"] > 0
    run("verify", tmp_path / "page.html")


def test_a_run_without_a_rule_of_its_own_defers_by_other_alone_and_is_said_to(scored, tmp_path):
    second = made(tmp_path / "b", sharpness=2.0)
    rule_of(scored, tmp_path / "a.json")
    found = run("compare", scored / "run", second / "run", "--abstain", tmp_path / "a.json", "--common",
                "--n-resamples", 20, "--out", tmp_path / "page.html")  # fmt: skip
    assert "no --abstain file was made for this checkpoint" in found.output
    twin = json.loads((tmp_path / "page" / "comparison.json").read_text())
    missed = {
        (table, row["run"]): row["share"]
        for table in ("harm", "harm_deferring")
        for row in twin[table]
        if (row["group"], row["outcome"]) == ("malignant", "missed")
    }
    without = next(row["run"] for row in twin["deferring"] if not row["has_rule"])
    with_rule = next(row["run"] for row in twin["deferring"] if row["has_rule"])
    assert missed["harm", without] == missed["harm_deferring", without]
    assert missed["harm", with_rule] > missed["harm_deferring", with_rule]
    assert "none: only “other” defers" in (tmp_path / "page.html").read_text()


def test_a_file_that_is_no_rule_is_refused(scored, tmp_path):
    (tmp_path / "x.json").write_text("{}")
    found = run("score", scored / "run", "--abstain", tmp_path / "x.json", code=3)
    assert "no deferral rule" in found.output


def test_a_rule_of_other_classes_and_one_that_needs_logits_are_refused():
    frame = pd.DataFrame({"image_id": ["a"], "case_id": ["a"], "group": ["a"], "split": ["test"]})
    probs = np.array([[0.5, 0.3, 0.2]])
    held = Predictions(frame, np.log(probs).astype(np.float32), ("x", "y", "z"), probs=probs)
    rule = {"class_names": ["x", "y", "z"], "rule": "energy", "unit": "image", "other_class": None,
            "temperature": 1.0, "threshold": 0.4}  # fmt: skip
    with pytest.raises(InputError, match="without softmax logits"):
        deferred(held, rule, where="run")
    with pytest.raises(InputError, match="the classes of another model"):
        deferred(held, rule | {"class_names": ["x", "y"]}, where="run")
    assert deferred(held, rule | {"rule": "max_probability"}, where="run").tolist() == [False]
    assert deferred(held, rule | {"rule": "max_probability", "threshold": 0.6}, where="run").tolist() == [
        True
    ]


def test_columns_of_a_rule_in_another_order_are_taken_by_name(scored, tmp_path):
    rule = read_rule(rule_of(scored, tmp_path / "a.json"))
    frame = pd.DataFrame({"image_id": ["a"], "case_id": ["a"], "group": ["a"], "split": ["test"]})
    turned = Predictions(frame, np.array([[9.0, 0, 0, 0]], dtype=np.float32), CLASSES[::-1])
    assert deferred(turned, rule, where="run").tolist() == [True]  # the first column is `other`


def test_a_rule_that_answers_nothing_has_no_wrong_answers_to_count(tmp_path):
    """All deferred: answered 0 with an upper end, missed 0, and the share of wrong answers is n/a, not 0."""
    folder = made(tmp_path / "r", n=300, n_calibration=150)
    run("abstain", folder / "run", "--risk", 0.0005, "--out", tmp_path / "a.json", "--n-resamples", 5, code=1)
    run("score", folder / "run", "--abstain", tmp_path / "a.json", "--n-resamples", 20, "--report",
        tmp_path / "page.html")  # fmt: skip
    metrics = io.read_parquet(folder / "run" / "labels-v0" / "metrics.parquet")[0]
    under = metrics[metrics["subset"] == "deferring"].set_index("metric")
    n_groups = under.loc["answered", "n_groups"]
    assert under.loc["answered", ["value", "ci_low"]].tolist() == [0.0, 0.0]
    assert under.loc["answered", "ci_high"] == pytest.approx(1 - 0.025 ** (1 / n_groups))
    assert under.loc["answered_wrong", ["value", "ci_low", "ci_high"]].isna().all()
    assert under.loc["answered_wrong", "n_undefined"] == 20
    assert under.loc["malignant_deferred", "value"] == 1.0
    page = (tmp_path / "page.html").read_text()
    part = page[page.index("kept-table") :]
    assert "n/a" in part[: part.index("</table>")]
    run("verify", folder / "run")
