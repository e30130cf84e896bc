"""DDI: 656 clinical images, every diagnosis from histology, skin types balanced (Daneshjou et al. 2022).

Written from the published description (doi:10.71718/kqee-3z39), not tried on the files themselves.
"""

from pathlib import Path

import pandas as pd

from ddeval.data.importers.layout import image_of, manifest, mapped, read_published

SKIN_TYPES = {"12": "I-II", "34": "III-IV", "56": "V-VI"}
MALIGNANT = {"True": "yes", "False": "no", "TRUE": "yes", "FALSE": "no"}


def import_ddi(folder: Path) -> pd.DataFrame:
    """`ddi_metadata.csv`, images `000001.png` … in any folder below. Patients are not published."""
    given = read_published(folder, "ddi_metadata.csv")
    where = str(folder)
    return manifest(
        {
            "image_id": given["DDI_file"].map(lambda name: Path(name).stem),
            "image": image_of(folder, given["DDI_file"]),
            "label": given["disease"],
            "raw_label": given["disease"],
            "label_basis": "histology",
            "skin_type": mapped(given["skin_tone"], SKIN_TYPES, where=where),
            "skin_type_source": "dermatologist",
            "source": "DDI",
            "malignant": mapped(given["malignant"], MALIGNANT, where=where),
        },
        where=where,
    )
