"""Stakes of a run: what conditions.yaml says of its images and of its classes.

The diagnosis of an image is its `raw_label` where conditions.yaml knows it, else its label; an image that
readers gave another label takes that label. So a cancer inside `other` is found by its diagnosis.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ddeval.config import config_file
from ddeval.data.conditions import Conditions, read_conditions
from ddeval.errors import InputError
from ddeval.metrics.stakes import SERIOUS, Stakes
from ddeval.project import conditions_path

SHIPPED = ("conditions.yaml", "conditions_public.yaml")
"""Worked examples: the 25 classes of the demo, and the codes of HAM10000, ISIC 2019 and Fitzpatrick17k."""


def conditions_for(
    rows: pd.DataFrame, class_names: Sequence[str], given: Path | None = None
) -> tuple[Conditions, list[str]]:
    """The conditions to judge a model of these classes by, and a sentence where nobody chose them.

    The file given, else the project's, else the shipped example that knows most of the classes and of the
    diagnoses in `rows`, by name or synonym (the first of two that know as many).
    """
    chosen = conditions_path(given)
    if chosen is not None:
        return read_conditions(chosen), []
    examples = [read_conditions(config_file(name, where="conditions")) for name in SHIPPED]
    raw = list(rows["raw_label"].dropna()) if "raw_label" in rows else []
    names = pd.Series(list(dict.fromkeys([*class_names, *raw])), dtype=object)
    known = [int(example.lookup(names)["diagnosis"].notna().sum()) for example in examples]
    best = known.index(max(known))
    said = (
        f"decisions: risk groups of the shipped example {SHIPPED[best]}, approved by no clinician; "
        "name your own: --conditions FILE"
    )
    return examples[best], [said] if known[best] else []


def stakes_of(
    rows: pd.DataFrame,
    class_names: Sequence[str],
    *,
    other_class: str | None,
    conditions: Conditions,
    prevalence: Mapping[str, float] | None = None,
) -> tuple[Stakes | None, list[str]]:
    """What is at stake for the labelled images in `rows`, and a sentence on each thing nobody has said.

    None where conditions.yaml knows none of the classes and none of the diagnoses: nothing can be said.

    Parameters
    ----------
    rows : DataFrame
        `label`, and where there are `raw_label` and `label_outcome`, one row an image.
    prevalence : mapping of risk group to share, optional
        Where the model will serve; the group's share of the images where not given.
    """
    for group, share in (prevalence or {}).items():
        if group not in SERIOUS or not 0.0 <= share <= 1.0:
            raise InputError(
                "--prevalence",
                f"{group}={share:g}",
                expected=f"{' or '.join(SERIOUS)} and a share from 0 to 1",
                todo="Write it as malignant=0.02.",
            )
    said = conditions.lookup(diagnoses(rows, conditions))
    of_class = conditions.class_groups
    by_name = conditions.lookup(pd.Series(list(class_names), dtype=object))["group"]
    class_groups = tuple(
        None if name == other_class else of_class.get(name) or group  # mixed, like akiec: as its name says
        for name, group in zip(class_names, [g if isinstance(g, str) else None for g in by_name], strict=True)
    )
    group_of = said["group"].to_numpy(dtype=object)
    if said["diagnosis"].isna().all() and not any(class_groups):
        where = Path(conditions.where).name
        return None, [
            f"decisions: none, {where} knows none of these classes or diagnoses; write one that does and "
            "name it: --conditions FILE"
        ]
    labels = rows["label"]
    shares = {group: float(np.mean(group_of == group)) for group in SERIOUS}
    return Stakes(
        group_of=group_of,
        cost_of=said["cost"].to_numpy(dtype=np.float64),
        class_of=pd.Index(class_names).get_indexer(pd.Index(labels)).astype(np.int64),
        class_groups=class_groups,
        other=None if other_class is None else list(class_names).index(other_class),
        prevalence=shares | dict(prevalence or {}),
    ), _notes(said, class_names, class_groups, other_class)


def diagnoses(rows: pd.DataFrame, conditions: Conditions) -> pd.Series:
    """The diagnosis string of each image: as given where it is known and still holds, else the label."""
    label = rows["label"].astype(object)
    if "raw_label" not in rows:
        return label
    raw = rows["raw_label"].astype(object)
    holds = raw.notna() & ~raw.isin(conditions.unmatched(raw).index)
    if "label_outcome" in rows:
        holds &= rows["label_outcome"].ne("relabel")
    return raw.where(holds, label)


def _notes(
    said: pd.DataFrame,
    class_names: Sequence[str],
    class_groups: Sequence[str | None],
    other_class: str | None,
) -> list[str]:
    notes = []
    ungrouped = int(said["group"].isna().sum())
    if ungrouped:
        have = "1 image has" if ungrouped == 1 else f"{ungrouped:,} images have"
        notes.append(f"decisions: {have} a diagnosis without a risk group; counted as nothing")
    silent = [
        name
        for name, group in zip(class_names, class_groups, strict=True)
        if group is None and name != other_class
    ]
    if silent:
        notes.append(f"decisions: classes without a risk group: {', '.join(silent)}")
    return notes
