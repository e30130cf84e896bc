"""HAM10000: 10,015 dermatoscopic images of pigmented lesions, seven classes (doi:10.7910/DVN/DBW86T)."""

from pathlib import Path

import pandas as pd

from ddeval.data.importers.layout import image_of, manifest, mapped, read_published, without

BASES = {
    "histo": "histology",
    "follow_up": "follow_up",
    "consensus": "consensus",
    "confocal": "unknown",  # microscopy of living skin is none of our bases; `dx_type` keeps the word
}


def import_ham10000(folder: Path) -> pd.DataFrame:
    """`metadata.csv` or `HAM10000_metadata.csv`, images in any folder below; one to six images a lesion."""
    given = read_published(folder, "metadata.csv", "HAM10000_metadata.csv", "HAM10000_metadata")
    where = str(folder)
    return manifest(
        {
            "image_id": given["image_id"],
            "image": image_of(folder, given["image_id"]),
            "label": given["dx"],
            "raw_label": given["dx"],
            "label_basis": mapped(given["dx_type"], BASES, where=where),
            "dx_type": given["dx_type"],
            "lesion_id": given["lesion_id"],
            "sex": without(given["sex"], "unknown"),
            "age": given["age"],
            "body_site": without(given["localization"], "unknown"),
            "source": given["dataset"] if "dataset" in given.columns else "HAM10000",
        },
        where=where,
    )
