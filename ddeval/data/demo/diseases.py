"""The drawn diseases: who has them, how they look, how people answer. The figures are in diseases.yaml.

They are not meant to teach anybody dermatology. Diseases differ where real ones differ and are alike where
real ones are mistaken for each other, which is what an audit of labels has to live with.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ddeval.config import Section, parse_config, read_yaml
from ddeval.data.demo.lesions import Layout, Look, Paint, Where

OTHER = "other"
"""The class of every disease that is not a target."""

Chance = float | tuple[float, float] | Mapping[str, float]
"""A probability (yes/no), median and spread (number), or weights or probabilities by answer."""

ANYWHERE = {"face": 2, "chest": 2, "back": 3, "belly": 1, "upper arm": 2, "forearm": 3, "hand": 1, "thigh": 2,
            "lower leg": 3, "neck": 1}  # fmt: skip


class LookSection(Section):
    """A `Look` as it stands in the file."""

    layout: Layout
    count: tuple[int, int]
    radius: tuple[float, float]
    paints: tuple[tuple[str, float, Where], ...]
    softness: float
    ragged: float
    stretch: tuple[float, float] = (1.0, 1.35)


class Disease(Section):
    """One disease; the keys are explained at the top of diseases.yaml."""

    name: str
    class_name: str
    share: float
    age: tuple[float, float]
    raw: tuple[str, ...]
    confused: Mapping[str, float]
    mistaken: float = 1.0
    doctor: str
    sites: Mapping[str, float] = ANYWHERE
    female: float = 0.52
    pale_skin: float = 1.0
    histology: float = 0.0
    answers: Mapping[str, Chance]
    look: LookSection

    def drawn(self) -> Look:
        """The look as `lesions` takes it."""
        paints = tuple(Paint(*paint) for paint in self.look.paints)
        return Look(
            layout=self.look.layout,
            count=self.look.count,
            radius=self.look.radius,
            paints=paints,
            softness=self.look.softness,
            ragged=self.look.ragged,
            stretch=self.look.stretch,
        )


class Tables(Section):
    """What diseases.yaml holds."""

    anybody: Mapping[str, Chance]
    diseases: Mapping[str, Disease]


@cache
def read_tables() -> Tables:
    """The tables of diseases.yaml."""
    path = Path(__file__).with_name("diseases.yaml")
    held = read_yaml(path)
    for name, entry in held["diseases"].items():
        entry["name"] = name
        entry["class_name"] = entry.pop("class")
    tables: Tables = parse_config(held, Tables, where=str(path))
    return tables


def class_names() -> tuple[str, ...]:
    """The 25 target classes in the order of the file, then `other`."""
    found = dict.fromkeys(d.class_name for d in read_tables().diseases.values())
    return (*(name for name in found if name != OTHER), OTHER)
