"""Curves: the tables behind a run's figures, made once here so that no figure computes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ddeval.metrics.arrays import Floats
from ddeval.metrics.calibration import reliability_table
from ddeval.metrics.discrimination import confusion
from ddeval.metrics.readings import Reading
from ddeval.metrics.selective import risk_coverage


def curves_of(reading: Reading) -> dict[str, pd.DataFrame]:
    """`reliability`, `risk_coverage`, `confusion` and `confused_pairs` of a reading."""
    pairs = _confusion_table(confusion(reading.labels, reading.pred_probs), reading.class_names)
    return {
        "reliability": reliability_table(reading.labels, reading.pred_probs),
        "risk_coverage": risk_coverage(reading.labels, reading.pred_probs),
        "confusion": pairs,
        "confused_pairs": _confused_pairs(pairs),
    }


def _confusion_table(counts: Floats, class_names: Sequence[str]) -> pd.DataFrame:
    """One row a cell of the confusion matrix, empty ones too: `label`, `predicted`, `n`."""
    n_classes = len(class_names)
    return pd.DataFrame(
        {
            "label": np.repeat(class_names, n_classes),
            "predicted": np.tile(class_names, n_classes),
            "n": counts.ravel().astype(np.int64),
        }
    )


def _confused_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Wrong cells that hold images, most first, with their share of the label's images and of all errors."""
    n_of_label = pairs.groupby("label", sort=False)["n"].transform("sum")
    wrong = pairs.assign(share_of_label=pairs["n"] / n_of_label.where(n_of_label > 0))
    wrong = wrong[(wrong["label"] != wrong["predicted"]) & (wrong["n"] > 0)]
    wrong = wrong.assign(share_of_errors=wrong["n"] / wrong["n"].sum())
    return wrong.sort_values("n", ascending=False, kind="stable", ignore_index=True)


def three_outcomes(metrics: pd.DataFrame) -> pd.DataFrame:
    """Share of the images `given` target or other whose `outcome` is right, wrong or deferred."""
    of = metrics[(metrics["subset"] == "all") & metrics["class_name"].isna()].set_index("metric")
    columns = ["value", "ci_low", "ci_high", "n_images"]
    rows = [("target", name, *of.loc[f"target_{name}", columns]) for name in ("right", "wrong", "deferred")]
    share, low, high, n_other = of.loc["other_sensitivity", columns].to_numpy(dtype=np.float64)
    rows += [("other", "wrong", 1 - share, 1 - high, 1 - low, n_other)]
    rows += [("other", "deferred", share, low, high, n_other)]
    table = pd.DataFrame(rows, columns=["given", "outcome", "share", "ci_low", "ci_high", "n_images"])
    return table.astype({"n_images": np.int64})
