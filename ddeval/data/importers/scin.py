"""SCIN: 5,033 cases photographed and described by the people who have them (Ward et al. 2024).

One to three photographs a case, a questionnaire in the patient's own words, up to three dermatologists'
ranked differentials combined into one weighted label.
"""

import ast
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ddeval.data.fields import SEPARATOR
from ddeval.data.importers.layout import find, manifest, mapped, read_published, without
from ddeval.errors import InputError
from ddeval.tables import SKIN_TYPES

SKIN_TYPE_OF = {f"FST{n}": name for n, name in enumerate(SKIN_TYPES, start=1)} | {"NONE_IDENTIFIED": None}
SEXES = {"FEMALE": "female", "MALE": "male", "OTHER_OR_UNSPECIFIED": None}
GROUPS = ("textures", "body_parts", "condition_symptoms", "other_symptoms")
"""Questions with several answers: one column an answer, YES or empty."""
SINGLES = ("age_group", "fitzpatrick_skin_type", "related_category", "condition_duration")


def import_scin(folder: Path) -> pd.DataFrame:
    """`scin_cases.csv` and `scin_labels.csv`; a row an image, so a case's answers stand in each of its rows.

    An image's id is its case and number, since 15 files belong to several cases.

    The label is the condition of greatest weight, the first named among equals (925 of the 3,061
    labelled cases have equals); `label_weights` keeps all of them as JSON. No age is given, only its
    band: `q.age_group`. A group of boxes in which none is ticked is unanswered.
    """
    cases = read_published(folder, "scin_cases.csv", "dataset/scin_cases.csv")
    labels = read_published(folder, "scin_labels.csv", "dataset/scin_labels.csv").set_index("case_id")
    labels = labels.reindex(cases["case_id"]).set_axis(cases.index)
    where = str(folder)
    weights = labels["weighted_skin_condition_label"].map(lambda t: _weights(t, where), na_action="ignore")
    weights = weights.where(weights.map(bool), None)
    top = weights.map(lambda w: max(w, key=w.get), na_action="ignore")
    by_case = {
        "label": top,
        "raw_label": top,
        "label_weights": weights.map(json.dumps, na_action="ignore"),
        "label_basis": _basis(labels).where(top.notna(), None),
        "case_id": cases["case_id"],
        "skin_type": mapped(cases["fitzpatrick_skin_type"], SKIN_TYPE_OF, where=where),
        "skin_type_source": "self",
        "sex": mapped(cases["sex_at_birth"], SEXES, where=where),
        "source": cases["source"],
        **{f"q.{name}": without(cases[name], "AGE_UNKNOWN").str.lower() for name in SINGLES},
        **{f"q.{name}": _ticked(cases, name) for name in GROUPS},
    }
    frame = pd.DataFrame(by_case)
    frame.loc[frame["skin_type"].isna(), "skin_type_source"] = None
    return manifest(_one_row_an_image(frame, cases, folder), where=where)


def _one_row_an_image(frame: pd.DataFrame, cases: pd.DataFrame, folder: Path) -> pd.DataFrame:
    parts = []
    for i in (1, 2, 3):
        path = cases[f"image_{i}_path"]
        shot_type = cases[f"image_{i}_shot_type"].str.lower()
        part = frame.assign(image_id=cases["case_id"] + f"-{i}", image=path, shot_type=shot_type)
        parts.append(part[path.notna()])
    rows = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    rows["image"] = rows["image"].map(lambda path: _below(folder, path))
    return rows


def _below(folder: Path, path: str) -> str:
    """The published path, without its first folder where the files lie so; also of a file not downloaded."""
    there = find(folder, path, path.removeprefix("dataset/"))
    return there.relative_to(folder).as_posix() if there else path


def _weights(text: str, where: str) -> Mapping[str, float]:
    """The weighted label, which the table writes as a Python dictionary of text and numbers."""
    try:
        value = ast.literal_eval(text)
        return {str(name): float(weight) for name, weight in value.items()}
    except (ValueError, SyntaxError, AttributeError) as error:
        raise InputError(
            f"{where}/scin_labels.csv",
            f"weighted_skin_condition_label {text[:60]!r}",
            expected="a dictionary of condition and weight",
            todo="The published file may be damaged.",
        ) from error


def _basis(labels: pd.DataFrame) -> pd.Series:
    """single or consensus, by how many dermatologists found the photographs good enough to judge."""
    graded = labels.filter(regex=r"^dermatologist_gradable_for_skin_condition_\d$")
    n_readers = (graded == "DEFAULT_YES_IMAGE_QUALITY_SUFFICIENT").sum(axis=1)
    return pd.Series(np.where(n_readers > 1, "consensus", "single"), index=labels.index, dtype=object)


def _ticked(cases: pd.DataFrame, group: str) -> pd.Series:
    """The ticked boxes of a question joined by `;`, None where none is."""
    boxes = cases[[name for name in cases.columns if name.startswith(f"{group}_")]]
    boxes = pd.DataFrame(
        {name: mapped(boxes[name], {"YES": "YES"}, where="scin_cases.csv") for name in boxes}
    )
    names = [name.removeprefix(f"{group}_") for name in boxes.columns]
    ticked = boxes.notna().to_numpy()
    joined = [SEPARATOR.join(n for n, on in zip(names, row, strict=True) if on) or None for row in ticked]
    return pd.Series(joined, index=cases.index, dtype=object)
