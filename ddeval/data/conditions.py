"""Conditions: what a diagnosis string means, which class a model has for it, and how much it matters.

`configs/conditions.yaml` is keyed by diagnosis, not by class: the class `other` holds harmless warts of
old age and lethal cancers alike, and a decision number must tell them apart. Nothing is filled in: a
diagnosis without a group is listed by `without_group` and is never routine by default.
"""

import datetime as dt
import difflib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import pydantic

from ddeval.config import Section, parse_config, read_yaml
from ddeval.errors import InputError

Group = Literal["malignant", "urgent", "routine", "self_care"]
"""From the group that must not be missed to the one that needs no doctor."""


class Diagnosis(Section):
    """One entry of conditions.yaml; the diagnosis itself is its key."""

    model_config = pydantic.ConfigDict(populate_by_name=True)

    name: str
    """The diagnosis, as it is shown."""
    class_name: str = pydantic.Field(alias="class")
    """The class a model has for it: a target class, or `other`."""
    synonyms: tuple[str, ...] = ()
    """Other strings that mean the same diagnosis."""
    group: Group | None = None
    """What is at stake; None is "nobody has said", and is reported as such."""
    cost: Annotated[float, pydantic.Field(ge=0)] | None = None
    """Harm of missing it, where missing a routine condition is 1."""
    definition: str = ""
    """One sentence of what it is."""
    approved_by: str | None = None
    """Clinician who agreed to group, cost and definition."""
    approved_on: dt.date | None = None


@dataclass(frozen=True)
class Conditions:
    """Every diagnosis of a conditions file, found by name or synonym, whatever the case."""

    diagnoses: tuple[Diagnosis, ...]
    where: str = "conditions"
    """The file, for messages."""

    def __post_init__(self) -> None:
        _check_names(self)

    def find(self, name: str) -> Diagnosis:
        """The diagnosis called `name`; an InputError offers the nearest names."""
        found = self._by_key.get(_key(name))
        if found is not None:
            return found
        keys = difflib.get_close_matches(_key(name), self._by_key, n=3)
        near = list(dict.fromkeys(self._by_key[key].name for key in keys))
        raise InputError(
            self.where,
            f"no diagnosis {name!r}",
            expected=f"one of its {len(self.diagnoses)} diagnoses or their synonyms",
            todo=f"Near to it: {', '.join(near)}." if near else "Add it as a diagnosis or a synonym.",
        )

    def class_of(self, name: str) -> str:
        """The class of a diagnosis given by name or synonym; errors as `find`."""
        return self.find(name).class_name

    def group_of(self, name: str) -> Group | None:
        """The group of a diagnosis, None where nobody has given it one; errors as `find`."""
        return self.find(name).group

    def lookup(self, raw_labels: pd.Series) -> pd.DataFrame:
        """What each diagnosis string means, one row each under the index of `raw_labels`.

        Columns `diagnosis`, `class`, `group`, `cost`; all empty where the string is empty or matches no
        diagnosis (`unmatched` counts those). No string falls to `other` by itself.
        """
        found = {raw: self._by_key.get(_key(raw)) for raw in raw_labels.dropna().unique()}
        rows = [
            (d.name, d.class_name, d.group, d.cost) if (d := found.get(raw)) else (None,) * 4
            for raw in raw_labels
        ]
        table = pd.DataFrame(rows, index=raw_labels.index, columns=["diagnosis", "class", "group", "cost"])
        return table.astype({"diagnosis": object, "class": object, "group": object, "cost": float})

    def unmatched(self, raw_labels: pd.Series) -> pd.Series:
        """How often each string that matches no diagnosis occurs, most frequent first."""
        counts = raw_labels.dropna().value_counts().rename("n_rows")
        return counts[[_key(raw) not in self._by_key for raw in counts.index]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class, in the order of the file."""
        return tuple(dict.fromkeys(d.class_name for d in self.diagnoses))

    @property
    def class_groups(self) -> dict[str, Group | None]:
        """The group of each class; None where its diagnoses differ (`other`) or one of them has none."""
        held: dict[str, set[Group | None]] = {}
        for d in self.diagnoses:
            held.setdefault(d.class_name, set()).add(d.group)
        return {name: next(iter(groups)) if len(groups) == 1 else None for name, groups in held.items()}

    @property
    def without_group(self) -> tuple[str, ...]:
        """Diagnoses nobody has put into a group."""
        return tuple(d.name for d in self.diagnoses if d.group is None)

    @cached_property
    def _by_key(self) -> dict[str, Diagnosis]:
        return {_key(name): d for d in self.diagnoses for name in (d.name, *d.synonyms)}


def read_conditions(path: Path) -> Conditions:
    """The conditions in a YAML file keyed by diagnosis.

    Raises an InputError for an unknown key or group, and for a name or synonym that two entries share.
    """
    entries = read_yaml(path)
    if not isinstance(entries, Mapping) or not entries:
        raise InputError(
            str(path),
            f"{type(entries).__name__} at the top",
            expected="one key a diagnosis",
            todo="See configs/conditions.yaml.",
        )
    diagnoses = []
    for name, entry in entries.items():
        values = {**entry, "name": str(name)} if isinstance(entry, Mapping) else entry
        diagnoses.append(parse_config(values, Diagnosis, where=f"{path} {name!r}"))
    return Conditions(tuple(diagnoses), str(path))


def _key(name: object) -> str:
    """A diagnosis string without what does not tell two diagnoses apart: case, spaces, hyphens, _."""
    text = unicodedata.normalize("NFC", str(name)).casefold().replace("’", "'")
    return " ".join(re.split(r"[\s_\-]+", text.strip()))


def _check_names(conditions: Conditions) -> None:
    owner: dict[str, str] = {}
    for d in conditions.diagnoses:
        for name in (d.name, *d.synonyms):
            first = owner.setdefault(_key(name), d.name)
            if first != d.name:
                raise InputError(
                    conditions.where,
                    f"{name!r} for both {first!r} and {d.name!r}",
                    expected="each name and synonym with one diagnosis",
                    todo="Remove one of them.",
                )
