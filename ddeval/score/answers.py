"""Answers of one run to labelled images, which the clinical numbers are made from."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.arrays import Labels, Probs


class Labelled(NamedTuple):
    """Images with their labels, and what a model says of them."""

    image_ids: npt.NDArray[np.object_]
    labels: Labels
    pred_probs: Probs

    def sorted(self) -> "Labelled":
        order = np.argsort(self.image_ids, kind="stable")
        return Labelled(self.image_ids[order], self.labels[order], self.pred_probs[order])


class Answers(NamedTuple):
    """One run's answers to labelled images, and what the manifest says of these."""

    labels: Labels
    pred_probs: Probs
    rows: pd.DataFrame
    """Of the manifest, in the order of the labels."""
    groups: npt.NDArray[Any]
    class_names: tuple[str, ...]
    other_class: str | None

    @property
    def other(self) -> int | None:
        return None if self.other_class is None else self.class_names.index(self.other_class)

    @property
    def labelled(self) -> Labelled:
        return Labelled(self.rows["image_id"].to_numpy(dtype=object), self.labels, self.pred_probs)
