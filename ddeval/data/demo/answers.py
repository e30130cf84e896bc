"""Answers to the full questionnaire, more or less as the disease would have it.

Every question is answered, left empty, or answered without regard to the disease, as real ones are. The
words are those of configs/feature_schema.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ddeval.data.demo.diseases import Chance, Disease, read_tables

LEFT_EMPTY = 0.08
"""Share of questions a careful patient leaves empty; a careless one leaves half of them."""
CARELESS = 0.15
TRUE_TO_DISEASE = 0.84
"""Share of answers drawn from the disease rather than from anybody."""
SKIN_TYPES = ("I", "II", "III", "IV", "V", "VI")
DOCTORS = ("eczema or dermatitis", "psoriasis", "acne or rosacea", "an infection or fungus",
           "a harmless mole or growth", "a precancer or cancer")  # fmt: skip
NONE = {"allergies": "no allergy", "colour": "none of these colours", "treatment_tried": "nothing"}
NONE_OF_THESE = "none of these"
YEAR = 365.25
DAY_UNITS = ((1.0, "day"), (7.0, "week"), (30.4375, "month"), (YEAR, "year"))


@dataclass(frozen=True)
class Patient:
    """Who answers."""

    patient_id: str
    age: float
    """In years."""
    sex: str
    skin_type: str
    """As a dermatologist would say."""


def answer(patient: Patient, disease: Disease, sites: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Text of every field of the full questionnaire; "" where the patient left it empty."""
    said = {name: _said(name, chance, disease, rng) for name, chance in read_tables().anybody.items()}
    said["body_site"] = "; ".join(sites)
    said["age"] = _age(patient.age)
    said["sex"] = patient.sex if rng.random() > 0.012 else "intersex or other"
    said["skin_type"] = _own_skin_type(patient.skin_type, rng)
    if patient.sex == "male" or not 15 <= patient.age <= 48:
        said["pregnant"] = "no"
    if patient.age < 14:
        said["smoking"] = "no"
        said["occupation"] = "school or nursery"
    said["my_doctor_said"] = _doctor(disease, rng)
    left_empty = 0.5 if rng.random() < CARELESS else LEFT_EMPTY
    empty = rng.random(len(said)) < left_empty
    return {
        name: "" if is_empty else text for (name, text), is_empty in zip(said.items(), empty, strict=True)
    }


def _said(name: str, anybody: Chance, disease: Disease, rng: np.random.Generator) -> str:
    is_true = rng.random() < TRUE_TO_DISEASE
    chance = disease.answers.get(name, anybody) if is_true else anybody
    if isinstance(chance, tuple):
        return _number(name, *chance, rng)
    if isinstance(chance, float):
        return "yes" if rng.random() < chance else "no"
    if name in SEVERAL:
        base = anybody if isinstance(anybody, Mapping) and chance is not anybody else {}
        odds = {**{a: p * 0.6 for a, p in base.items()}, **chance}  # what a disease is silent about is rarer
        chosen = [a for a, u in zip(odds, rng.random(len(odds)), strict=True) if u < odds[a]]
        return "; ".join(chosen) or NONE.get(name, NONE_OF_THESE)
    return weighted(chance, rng)


SEVERAL = frozenset({"morphology", "colour", "atopy", "family_history", "allergies", "contact",
                     "immune_state", "treatment_tried"})  # fmt: skip
"""Fields of several answers."""


def weighted(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """One key, drawn in proportion to its weight."""
    edges = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]


def _number(name: str, median: float, spread: float, rng: np.random.Generator) -> str:
    value = median * float(np.exp(rng.normal(0, spread)))
    if name == "duration":
        return _duration(min(value, 60 * YEAR), rng)
    if name == "size":
        value = min(max(value, 1.0), 280.0)
        return f"{value / 10:.1f} cm" if value > 20 and rng.random() < 0.7 else f"{value:.0f} mm"
    return f"{min(round(value), 90)}"


def _duration(days: float, rng: np.random.Generator) -> str:
    """As people say it: a whole number of the largest unit that fits, now and then of a smaller one."""
    fitting = [(length, unit) for length, unit in DAY_UNITS if days >= length] or [DAY_UNITS[0]]
    length, unit = fitting[-1 if rng.random() < 0.85 or len(fitting) == 1 else -2]
    n = max(1, round(days / length))
    return f"{n} {unit}{'s' if n > 1 else ''}"


def _age(years: float) -> str:
    return f"{max(1, int(years * 12))} months" if years < 2 else f"{int(years)}"


def _own_skin_type(skin_type: str, rng: np.random.Generator) -> str:
    """What the patient thinks: in four of five cases what a dermatologist would say, else one off."""
    step = int(rng.choice([-1, 0, 0, 0, 0, 0, 0, 0, 1]))
    return SKIN_TYPES[min(max(SKIN_TYPES.index(skin_type) + step, 0), 5)]


def _doctor(disease: Disease, rng: np.random.Generator) -> str:
    """Most have seen no doctor; of the others two thirds were told what they have."""
    if rng.random() < 0.70:
        return "no doctor has seen it"
    if disease.doctor and rng.random() < 0.65:
        return disease.doctor
    return DOCTORS[rng.integers(len(DOCTORS))]
