"""PAD-UFES-20: 2,298 smartphone images of six lesions with clinical data (Pacheco et al. 2020).

Written from the published description (doi:10.17632/zr7vgbcyr2.1), not tried on the files themselves.
"""

from pathlib import Path

import pandas as pd

from ddeval.data.importers.layout import (
    SKIN_TYPE_OF_NUMBER,
    image_of,
    manifest,
    mapped,
    read_published,
    without,
)

SEXES = {"FEMALE": "female", "MALE": "male"}
BASES = {"True": "histology", "False": "consensus"}
ANSWERS = {"True": "yes", "False": "no", "TRUE": "yes", "FALSE": "no", "UNK": None}
QUESTIONS = (
    *("itch", "grew", "hurt", "changed", "bleed", "elevation", "smoke", "drink", "pesticide"),
    *("skin_cancer_history", "cancer_history", "has_piped_water", "has_sewage_system"),
)
NUMBERS = ("diameter_1", "diameter_2")
"""Of the lesion, in millimetres."""


def import_pad_ufes_20(folder: Path) -> pd.DataFrame:
    """`metadata.csv`, images `PAT_….png` in any folder below.

    Biopsied lesions have their label from histology, the others from a consensus of dermatologists.
    """
    given = read_published(folder, "metadata.csv")
    where = str(folder)
    number = given["fitspatrick"].str.removesuffix(".0")
    return manifest(
        {
            "image_id": given["img_id"].map(lambda name: Path(name).stem),
            "image": image_of(folder, given["img_id"]),
            "label": given["diagnostic"],
            "raw_label": given["diagnostic"],
            "label_basis": mapped(given["biopsed"], BASES, where=where),
            "patient_id": given["patient_id"],
            "lesion_id": given["lesion_id"],
            "skin_type": mapped(number, SKIN_TYPE_OF_NUMBER, where=where),
            "sex": mapped(given["gender"], SEXES, where=where),
            "age": given["age"],
            "body_site": given["region"].str.lower(),
            "source": "PAD-UFES-20",
            **{f"q.{name}": mapped(given[name], ANSWERS, where=where) for name in QUESTIONS},
            **{f"q.{name}": without(given[name], "UNK") for name in NUMBERS},
        },
        where=where,
    )
