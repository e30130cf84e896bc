"""What each number is called, how it is written and what it means in a line. In full: docs/metrics.md.

A test holds this list against docs/metrics.md: no number on a page is without a definition.
"""

from dataclasses import dataclass, replace
from typing import Literal

from ddeval.report.rounding import Unit


@dataclass(frozen=True)
class Measure:
    """One metric of the METRICS table."""

    title: str
    unit: Unit
    meaning: str
    better: Literal["high", "low", "zero", "neither"] = "high"


DOUBTS: dict[str, Measure] = {
    "label_quality": Measure(
        "Label quality", "probability", "How well the given label fits, 0 to 1: sort by it, never cut at it."
    ),
    "mean_label_quality": Measure(
        "Mean label quality", "probability", "Mean of label quality over the photographs with this label."
    ),
    "errors_expected": Measure(
        "Labels that may be wrong",
        "count",
        "Sum over photographs of the model's chance that the label is wrong: a guess, up to twice the truth.",
        "low",
    ),
    "n_disagreeing": Measure(
        "Model names another class", "count", "Photographs whose likeliest class is not the label.", "neither"
    ),
    "label_noise": Measure(
        "Label noise", "percent", "Estimated share of a class's labels that belong to another class.", "low"
    ),
    "inverse_noise": Measure(
        "Inverse noise",
        "percent",
        "Estimated share of a class's true photographs that carry another label.",
        "low",
    ),
    "overlap_share": Measure(
        "Overlap",
        "percent",
        "Estimated share of one label's photographs that belong to one other class.",
        "low",
    ),
    "similarity": Measure(
        "Similarity",
        "probability",
        "Of a pair: cosine of embeddings, or correlation of structure; 1 for equal files or pixels.",
        "neither",
    ),
    "off_topic_score": Measure(
        "Score",
        "probability",
        "Probability of the class nobody labels, or mean cosine distance to the nearest photographs.",
        "neither",
    ),
    "reader_agreement": Measure(
        "Agreement with the readers",
        "percent",
        "Share of the other readers of a case who name the same first class, mean over cases.",
    ),
}
"""Numbers of an audit's page; they are in its own tables, not in METRICS."""

RISK_GROUPS = ("malignant", "urgent")

MEASURES: dict[str, Measure] = {
    "top_1_accuracy": Measure(
        "Top-1 accuracy",
        "percent",
        "The most likely class is the label, over photographs labelled with a target class.",
    ),
    "top_3_accuracy": Measure(
        "Top-3 accuracy", "percent", "The label is among the three most likely classes; a tie counts against."
    ),
    "top_5_accuracy": Measure(
        "Top-5 accuracy", "percent", "The label is among the five most likely classes; a tie counts against."
    ),
    "balanced_accuracy": Measure(
        "Balanced accuracy",
        "percent",
        "Mean sensitivity over the classes, so that a rare class counts as much.",
    ),
    "macro_f1": Measure("F1, macro", "probability", "Mean F1 over the classes."),
    "weighted_f1": Measure("F1, weighted", "probability", "Mean F1 weighted by the labels of each class."),
    "mcc": Measure("MCC", "probability", "Matthews correlation of labels and answers, −1 to 1; 0 is chance."),
    "cohen_kappa": Measure(
        "Cohen's κ", "probability", "Agreement of labels and answers beyond chance, −1 to 1."
    ),
    "auroc_macro": Measure(
        "AUROC, macro",
        "probability",
        "Mean over classes of the chance that a photograph of the class ranks above one of another class.",
    ),
    "auroc_weighted": Measure(
        "AUROC, weighted", "probability", "The same, weighted by the labels of each class."
    ),
    "average_precision_macro": Measure(
        "Average precision, macro", "probability", "Mean over classes of the area under precision and recall."
    ),
    "sensitivity": Measure(
        "Sensitivity", "percent", "Share of the class's photographs that are recognised as it."
    ),
    "specificity": Measure(
        "Specificity", "percent", "Share of the other photographs that are not called it."
    ),
    "ppv": Measure("PPV", "percent", "Share of the answers that name the class and are right."),
    "npv": Measure("NPV", "percent", "Share of the answers that do not name the class and are right."),
    "f1": Measure("F1", "probability", "Harmonic mean of sensitivity and PPV."),
    "auroc": Measure(
        "AUROC", "probability", "Chance that a photograph of the class is ranked above one of another class."
    ),
    "average_precision": Measure(
        "Average precision",
        "probability",
        "Area under precision and recall of the class; chance is its share.",
    ),
    "labelled_share": Measure("Labelled", "percent", "Share of the labels that are this class.", "neither"),
    "predicted_share": Measure(
        "Predicted", "percent", "Share of the answers that are this class.", "neither"
    ),
    "share_ratio": Measure(
        "Predicted ÷ labelled",
        "ratio",
        "Above 1 the class is named more often than it is labelled.",
        "neither",
    ),
    "other_auroc": Measure(
        "AUROC of “other”", "probability", "How well its probability ranks what is “other” first."
    ),
    "other_sensitivity": Measure(
        "Sensitivity for “other”", "percent", "Share of “other” photographs answered “other”."
    ),
    "other_ppv": Measure("PPV of “other”", "percent", "Share of the answers “other” that are right."),
    "target_right": Measure(
        "Targets answered right",
        "percent",
        "Share of photographs of a target class that get the right answer, open set.",
    ),
    "answered": Measure(
        "Answered",
        "percent",
        "Share of all photographs that the deferral rule does not hand over.",
        "neither",
    ),
    "answered_wrong": Measure(
        "Wrong answers", "percent", "Share of the answers given under the rule that are wrong.", "low"
    ),
    "target_wrong": Measure(
        "Targets answered wrong", "percent", "Share of them that get the name of another target class.", "low"
    ),
    "target_deferred": Measure(
        "Targets deferred", "percent", "Share of them that are answered “other”.", "neither"
    ),
    "ece": Measure(
        "ECE, 15 bins",
        "probability",
        "Mean distance of confidence and accuracy over 15 bins of equal width. It is above 0 even for a "
        "perfectly calibrated model, so its band is that of such a model and not an interval.",
        "low",
    ),
    "ece_equal_mass": Measure(
        "ECE, equal mass", "probability", "The same over bins that hold equally many photographs.", "low"
    ),
    "mce": Measure("MCE", "probability", "The largest such distance of any bin.", "low"),
    "classwise_ece": Measure(
        "ECE by class",
        "probability",
        "The same for every class's own probability, averaged over classes.",
        "low",
    ),
    "smooth_ece": Measure(
        "Smooth ECE", "probability", "The same without bins, by a reflected kernel.", "low"
    ),
    "calibration_gap": Measure(
        "Confidence − accuracy", "points", "Above 0 the model claims more than it gets right.", "zero"
    ),
    "brier_score": Measure(
        "Brier score", "probability", "Squared distance of the probabilities from the label, 0 to 2.", "low"
    ),
    "nll": Measure("NLL", "probability", "Mean −ln of the probability given to the label.", "low"),
    "nll_calibration": Measure(
        "NLL, calibration part", "probability", "What recalibration would remove.", "low"
    ),
    "nll_refinement": Measure(
        "NLL, refinement part", "probability", "What stays after recalibration.", "low"
    ),
    "brier_score_calibration": Measure(
        "Brier, calibration part", "probability", "What recalibration would remove.", "low"
    ),
    "brier_score_refinement": Measure(
        "Brier, refinement part", "probability", "What stays after recalibration.", "low"
    ),
    "aurc": Measure("AURC", "probability", "Mean risk over all coverages, the surest answers first.", "low"),
    "augrc": Measure(
        "AUGRC",
        "probability",
        "Mean share of photographs answered wrongly over all coverages; 0.5 at worst.",
        "low",
    ),
    "eaurc": Measure(
        "E-AURC", "probability", "AURC less that of a perfect ranking at the same accuracy.", "low"
    ),
    "failure_auroc": Measure(
        "AUROC of confidence",
        "probability",
        "Chance that a right answer is surer than a wrong one; 0.5 is chance.",
    ),
    "coverage_at_risk_5": Measure(
        "Coverage at 5\N{NO-BREAK SPACE}% risk",
        "percent",
        "Largest share of photographs answered with at most 5 % of answers wrong.",
    ),
    "coverage_at_risk_10": Measure(
        "Coverage at 10\N{NO-BREAK SPACE}% risk",
        "percent",
        "Largest share of photographs answered with at most 10 % of answers wrong.",
    ),
    **{
        f"{group}_right": Measure(
            f"{group.capitalize()}: right",
            "percent",
            f"Share of the {group} photographs answered with a class at least as serious.",
        )
        for group in RISK_GROUPS
    },
    **{
        f"{group}_deferred": Measure(
            f"{group.capitalize()}: deferred",
            "percent",
            f"Share of the {group} photographs handed to a person.",
            "neither",
        )
        for group in RISK_GROUPS
    },
    **{
        f"{group}_missed": Measure(
            f"{group.capitalize()}: missed",
            "percent",
            f"Share of the {group} photographs answered with something less serious.",
            "low",
        )
        for group in RISK_GROUPS
    },
    **{
        f"{group}_missed_per_1000": Measure(
            f"{group.capitalize()} missed per 1,000",
            "per_1000",
            "Of 1,000 patients at the stated prevalence.",
            "low",
        )
        for group in RISK_GROUPS
    },
    **{
        f"malignant_sensitivity_at_specificity_{percent}": Measure(
            f"Malignant sensitivity at {percent}\N{NO-BREAK SPACE}% specificity",
            "percent",
            "Share of the malignant photographs referred by the threshold that spares so many of the others.",
        )
        for percent in (80, 90, 95)
    },
    "latency_p95_ms": Measure(
        "Latency, p95", "ms", "Time that 95 % of requests of one photograph stay below.", "low"
    ),
    "expected_cost": Measure(
        "Expected cost",
        "probability",
        "Mean cost of the answers, where a needless look costs 1 and a miss what conditions.yaml says.",
        "low",
    ),
}


OPEN = "open_"
"""Prefix of a measure over all images, where “other” is an answer like the rest."""


def measure(name: str) -> Measure:
    """The measure of that name, `open_` before it too; an unknown one keeps its name and three decimals."""
    about = MEASURES.get(name) or MEASURES.get(name.removeprefix(OPEN))
    if about is None:
        return Measure(name.replace("_", " "), "probability", "", "neither")
    return replace(about, title=f"{about.title}, open set") if name not in MEASURES else about
