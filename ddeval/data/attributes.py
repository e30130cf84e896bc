"""Attributes: which subgroup does each image belong to?

Skin type is split by who stated it, because a patient, a dermatologist and a colour measurement are not
one scale, and a range such as III-IV stays a group of its own. What is empty in the manifest is
`not recorded`, never guessed. No label and no prediction is read here.
"""

import itertools

import numpy as np
import pandas as pd

from ddeval.tables import ANSWER_PREFIX, SKIN_TYPE_RANGES, SKIN_TYPES

NOT_RECORDED = "not recorded"

AGE_EDGES = (0, 18, 40, 60, 80)
"""First year of each age band; the last is open."""
AGE_BANDS = (*(f"{a}-{b - 1}" for a, b in itertools.pairwise(AGE_EDGES)), f"{AGE_EDGES[-1]}+")

SKIN_TYPE_SOURCES = {
    "self": "skin type, stated by the patient",
    "dermatologist": "skin type, by a dermatologist",
    "ita": "skin type, from the photograph (ITA, a proxy)",
    None: "skin type, source not stated",
}


def attributes(manifest: pd.DataFrame) -> pd.DataFrame:
    """The group of each image by every attribute the manifest can tell, a column an attribute.

    Columns (present where at least two groups are recorded): skin type by source, `sex`, `age`,
    `body site`, `source`, `questionnaire`. Values are text; None where the attribute does not concern
    the image (a skin type by another source), `not recorded` where its cell is empty.

    Examples
    --------
    >>> attributes(pd.DataFrame({"age": [5.0, 18.0, None], "sex": ["male", "male", "male"]}))
                age
    0          0-17
    1         18-39
    2  not recorded
    """
    found = carried(manifest)
    kept = {name: cells for name, cells in found.items() if len(recorded(cells)) > 1}
    return pd.DataFrame(kept, index=manifest.index).astype(object)


def carried(manifest: pd.DataFrame) -> dict[str, pd.Series]:
    """The cells of every attribute that a column of the manifest could tell, as in `attributes`.

    Of one group, or of `not recorded` alone, too. A column `skin_type` carries all four of its sources.
    """
    found = _skin_types(manifest)
    for column, name in (("sex", "sex"), ("body_site", "body site"), ("source", "source")):
        if column in manifest:
            found[name] = _recorded(manifest[column])
    if "age" in manifest:
        found["age"] = _age_bands(pd.to_numeric(manifest["age"]))
    answers = [c for c in manifest.columns if c.startswith(ANSWER_PREFIX)]
    if answers:
        found["questionnaire"] = _completeness(manifest[answers])
    order = [*SKIN_TYPE_SOURCES.values(), "sex", "age", "body site", "source", "questionnaire"]
    return {name: found[name] for name in order if name in found}


def recorded(cells: pd.Series) -> list[str]:
    """The groups of an attribute that some image has, sorted."""
    return sorted(set(cells.dropna()) - {NOT_RECORDED})


def possible_groups(attribute: str) -> list[str]:
    """Groups an attribute may have in another manifest; [] where anything may stand in its column."""
    if attribute in SKIN_TYPE_SOURCES.values():
        return [*SKIN_TYPES, *SKIN_TYPE_RANGES]
    if attribute == "age":
        return list(AGE_BANDS)
    return list(COMPLETENESS) if attribute == "questionnaire" else []


def group_order(attribute: str, groups: list[str]) -> list[str]:
    """Groups in the order they are read: bands and skin types as they rise, `not recorded` last."""
    return sorted(groups, key=lambda group: (group == NOT_RECORDED, _place(attribute, group), group))


def _place(attribute: str, group: str) -> float:
    if attribute == "age":
        return float(group.rstrip("+").partition("-")[0]) if group[:1].isdigit() else np.inf
    if attribute == "questionnaire":
        return float(list(COMPLETENESS).index(group)) if group in COMPLETENESS else np.inf
    return 0.0


def _skin_types(manifest: pd.DataFrame) -> dict[str, pd.Series]:
    if "skin_type" not in manifest:
        return {}
    types = manifest["skin_type"]
    source = manifest.get("skin_type_source", pd.Series(None, index=manifest.index, dtype=object))
    found = {}
    for key, name in SKIN_TYPE_SOURCES.items():
        is_of = types.notna() & (source.isna() if key is None else source.eq(key))
        cells = [
            t if of else None if has else NOT_RECORDED
            for t, of, has in zip(types, is_of, types.notna(), strict=True)
        ]
        found[name] = pd.Series(cells, index=manifest.index, dtype=object)
    return found


def _age_bands(age: pd.Series) -> pd.Series:
    bands = pd.cut(age, [*AGE_EDGES, np.inf], right=False, labels=AGE_BANDS)
    return bands.astype(object).where(age.notna(), NOT_RECORDED)


COMPLETENESS = {"all answered": 0.0, "up to half missing": 0.5, "more than half missing": 1.0}
"""Most unanswered questions of each group, as a share."""


def _completeness(answers: pd.DataFrame) -> pd.Series:
    missing = answers.isna().mean(axis=1)
    names = np.array(list(COMPLETENESS), dtype=object)
    place = np.searchsorted(list(COMPLETENESS.values()), missing.to_numpy(), side="left")
    return pd.Series(names[place], index=answers.index, dtype=object)


def _recorded(cells: pd.Series) -> pd.Series:
    return cells.astype(object).where(cells.notna(), NOT_RECORDED)
