"""The cases of the drawn data set: patients, what they have, what was written down, and what is true.

Everything that is planted is decided here and nowhere else: wrong labels between diseases that are mistaken
for each other, copies of a photograph in another split, photographs that show no skin. `draw_cases` gives one
row a photograph; the columns of `TRUTH` are the answers that no stage of the pipeline may read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ddeval.data.demo.answers import SKIN_TYPES, Patient, answer, weighted
from ddeval.data.demo.diseases import Disease, read_tables

SOURCE = "synthetic"
WRONG_SHARE = 0.12
"""Share of images whose label is wrong."""
LOOKS_OTHER_SHARE = 0.08
"""Share of cases that look like a disease they are mistaken for."""
OFF_TOPIC_SHARE = 0.012
UNGRADABLE_SHARE = 0.012
DUPLICATE_SHARE = 0.015
"""Copies, as a share of the photographs; a fifth of them are byte-identical."""
SPLIT_SHARES = {"train": 0.58, "val": 0.10, "calibration": 0.10, "test": 0.22}
SKIN_SHARES = {"I": 0.10, "II": 0.23, "III": 0.26, "IV": 0.19, "V": 0.13, "VI": 0.09}

TRUTH = ("image_id", "case_id", "true_label", "true_diagnosis", "is_wrong", "looks_like", "is_off_topic",
         "is_ungradable", "duplicate_of", "duplicate_kind")  # fmt: skip
"""Columns of truth.csv."""


@dataclass(frozen=True)
class Case:
    """One visit: a disease at a place of one patient, and what the record says of it."""

    patient: Patient
    disease: str
    given: str
    """The diagnosis in the record."""
    looks_like: str
    """The disease it is drawn as."""
    sites: tuple[str, ...]
    split: str
    label_basis: str
    answers: Mapping[str, str]
    n_images: int
    copy_of: tuple[int, int] | None = None
    """Case and photograph this one copies."""
    copy_kind: str = ""


def draw_cases(n_patients: int, rng: np.random.Generator) -> list[Case]:
    """The cases of `n_patients` patients, then the copies of some of their photographs."""
    shares = np.cumsum(list(SPLIT_SHARES.values()))
    places = rng.permutation(n_patients) / n_patients  # so that each split has its share of patients exactly
    splits = np.array(list(SPLIT_SHARES))[np.searchsorted(shares, places, side="right")].tolist()
    cases = [case for i, split in enumerate(splits) for case in _patient_cases(str(i), split, rng)]
    return _with_wrong_labels(_with_copies(cases, rng), rng)


def _patient_cases(patient_id: str, split: str, rng: np.random.Generator) -> list[Case]:
    diseases = read_tables().diseases
    first = diseases[weighted({name: d.share for name, d in diseases.items()}, rng)]
    patient = Patient(
        patient_id,
        age=float(np.clip(rng.normal(*first.age), 0.3, 96)),
        sex="female" if rng.random() < first.female else "male",
        skin_type=weighted(
            {t: s * (first.pale_skin if t in ("I", "II") else 1) for t, s in SKIN_SHARES.items()}, rng
        ),
    )
    has = [first]
    for _ in range(int(rng.choice(3, p=(0.62, 0.27, 0.11)))):
        fitting = {n: d.share for n, d in diseases.items() if abs(patient.age - d.age[0]) < 1.5 * d.age[1]}
        has.append(diseases[weighted(fitting, rng)] if fitting else first)
    return [_case(patient, disease, split, rng) for disease in has]


def _case(patient: Patient, disease: Disease, split: str, rng: np.random.Generator) -> Case:
    sites = [weighted(disease.sites, rng)]
    for _ in range(int(rng.choice(3, p=(0.62, 0.28, 0.10)))):
        weights = disease.sites if rng.random() < 0.7 else {s: 1.0 for s in ALL_SITES} | {"nail": 3.0}
        sites.append(weighted(weights, rng))
    looks_like = weighted(disease.confused, rng) if rng.random() < LOOKS_OTHER_SHARE else disease.name
    kept = list(dict.fromkeys(sites))
    return Case(
        patient=patient,
        disease=disease.name,
        given=disease.name,
        looks_like=looks_like,
        sites=tuple(kept),
        split=split,
        label_basis=_basis(disease, rng),
        answers=answer(patient, disease, kept, rng),
        n_images=int(rng.choice([1, 2, 3], p=(0.42, 0.33, 0.25))),
    )


ALL_SITES = ("scalp", "face", "eyelid", "ear", "lip or mouth", "neck", "chest", "belly", "back", "armpit",
             "groin or genitals", "buttocks", "upper arm", "elbow", "forearm", "hand", "palm", "thigh",
             "knee", "lower leg", "foot", "sole", "nail")  # fmt: skip


def _basis(disease: Disease, rng: np.random.Generator) -> str:
    if rng.random() < disease.histology:
        return "histology"
    return weighted({"single": 5, "consensus": 2, "follow_up": 1, "unknown": 2}, rng)


def _with_copies(cases: list[Case], rng: np.random.Generator) -> list[Case]:
    """Add one-photograph cases of new patients that copy a photograph into another split."""
    n_copies = round(DUPLICATE_SHARE * sum(case.n_images for case in cases))
    copies = []
    for k, i in enumerate(rng.choice(len(cases), size=n_copies, replace=False).tolist()):
        case = cases[i]
        others = {split: share for split, share in SPLIT_SHARES.items() if split != case.split}
        patient = replace(case.patient, patient_id=f"copy {k}")
        copies.append(
            replace(
                case,
                patient=patient,
                split=weighted(others, rng),
                answers=answer(patient, read_tables().diseases[case.disease], list(case.sites), rng),
                n_images=1,
                copy_of=(i, int(rng.integers(case.n_images))),
                copy_kind="exact" if k % 5 == 0 else "near",
            )
        )
    return cases + copies


def _with_wrong_labels(cases: list[Case], rng: np.random.Generator) -> list[Case]:
    """Give cases a wrong diagnosis until 12 % of the images of each split have a wrong label.

    A case that looks like something else is mislabelled three times as often, and then as what it looks
    like. What was settled under the microscope is never wrong.
    """
    wrong = list(cases)
    for split in SPLIT_SHARES:
        members = [i for i, case in enumerate(cases) if case.split == split]
        left = round(WRONG_SHARE * sum(cases[i].n_images for i in members))
        odds = np.array([_odds(cases[i]) for i in members])
        order = np.argsort(-np.log(rng.random(len(members))) / np.maximum(odds, 1e-9))  # without replacement
        for i in [members[k] for k in order if odds[k] > 0]:
            if cases[i].n_images <= left:
                left -= cases[i].n_images
                wrong[i] = replace(cases[i], given=_mistaken(cases[i], rng))
    return wrong


def _odds(case: Case) -> float:
    if case.label_basis == "histology":
        return 0.0
    return read_tables().diseases[case.disease].mistaken * (3.0 if case.looks_like != case.disease else 1.0)


def _mistaken(case: Case, rng: np.random.Generator) -> str:
    """The wrong diagnosis in the record: what it looks like, else mostly the first that comes to mind."""
    if case.looks_like != case.disease:
        return case.looks_like
    confused = read_tables().diseases[case.disease].confused
    return weighted({name: weight**2 for name, weight in confused.items()}, rng)


def manifest_rows(cases: list[Case], rng: np.random.Generator) -> pd.DataFrame:
    """One row a photograph: the columns of the manifest, those of `TRUTH`, and what to draw.

    `case` and `photo` say which drawing it is. Ids are given at random, so that they tell nothing.
    """
    diseases = read_tables().diseases
    case_ids = [f"C{i:05d}" for i in rng.permutation(len(cases))]
    patients = list(dict.fromkeys(case.patient.patient_id for case in cases))
    patient_ids = {p: f"P{i:05d}" for p, i in zip(patients, rng.permutation(len(patients)), strict=True)}
    rows = []
    for i, case in enumerate(cases):
        true_class, given_class = diseases[case.disease].class_name, diseases[case.given].class_name
        about = _about(case, case_ids[i], patient_ids[case.patient.patient_id], rng)
        for photo in range(case.n_images):
            chance = rng.random()
            is_first_kind = case.copy_of is None
            is_off_topic = is_first_kind and chance < OFF_TOPIC_SHARE
            rows.append(
                about
                | {
                    "image_id": f"{case_ids[i]}-{photo + 1}",
                    "true_label": true_class,
                    "true_diagnosis": case.disease,
                    "is_wrong": given_class != true_class,
                    "looks_like": case.looks_like if case.looks_like != case.disease else None,
                    "is_off_topic": is_off_topic,
                    "is_ungradable": is_first_kind and not is_off_topic and chance > 1 - UNGRADABLE_SHARE,
                    "duplicate_of": f"{case_ids[case.copy_of[0]]}-{case.copy_of[1] + 1}"
                    if case.copy_of
                    else None,
                    "duplicate_kind": case.copy_kind or None,
                    "case": i,
                    "photo": photo,
                }
            )
    table = pd.DataFrame(rows)
    for name in ("is_off_topic", "is_ungradable"):  # a copy shows what its original shows
        shown = table.set_index("image_id")[name]
        table[name] |= table["duplicate_of"].map(shown).eq(True)
    table["age"] = table["age"].astype("Int64")  # whole years, though some are empty
    table.insert(1, "image", "images/" + table["image_id"] + ".jpg")
    return table.sort_values("image_id", ignore_index=True)


def _about(case: Case, case_id: str, patient_id: str, rng: np.random.Generator) -> dict[str, object]:
    """Manifest columns that all photographs of a case share."""
    given = read_tables().diseases[case.given]
    skin_type, skin_type_source = _written_skin_type(case, rng)
    return {
        "image_id": "",
        "label": given.class_name,
        "raw_label": given.raw[rng.integers(len(given.raw))],
        "label_basis": case.label_basis,
        "split": case.split,
        "case_id": case_id,
        "patient_id": patient_id,
        "lesion_id": f"L{case_id[1:]}" if read_tables().diseases[case.disease].look.layout == "one" else None,
        "skin_type": skin_type,
        "skin_type_source": skin_type_source,
        "sex": case.patient.sex if rng.random() > 0.03 else None,
        "age": int(case.patient.age) if rng.random() > 0.03 else None,
        "body_site": case.sites[0],
        "source": SOURCE,
        **{f"q.{name}": text or None for name, text in case.answers.items()},
    }


def _written_skin_type(case: Case, rng: np.random.Generator) -> tuple[str | None, str | None]:
    """The skin type in the record and who said it: none for some, a range now and then."""
    chance = rng.random()
    if chance < 0.12:
        return None, None
    at = SKIN_TYPES.index(case.patient.skin_type)
    if chance < 0.17:
        low = min(at, len(SKIN_TYPES) - 2)
        return f"{SKIN_TYPES[low]}-{SKIN_TYPES[low + 1]}", "dermatologist"
    said = case.answers.get("skin_type")
    if chance < 0.55 and said:
        return said, "self"
    return case.patient.skin_type, "ita" if chance > 0.93 else "dermatologist"
