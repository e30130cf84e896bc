"""ISIC 2019: 25,331 dermatoscopic images of eight classes (challenge.isic-archive.com)."""

from pathlib import Path

import pandas as pd

from ddeval.data.importers.layout import find, image_of, manifest, read_published
from ddeval.errors import InputError
from ddeval.io import read_csv


def import_isic2019(folder: Path) -> pd.DataFrame:
    """`ISIC_2019_Training_Metadata.csv`; labels from `…_GroundTruth.csv` where it lies beside.

    Without a lesion_id (2,084 images) an image counts as independent.
    """
    given = read_published(folder, "ISIC_2019_Training_Metadata.csv")
    label = _labels(folder).reindex(given["image"]).set_axis(given.index)
    return manifest(
        {
            "image_id": given["image"],
            "image": image_of(folder, given["image"]),
            "label": label,
            "raw_label": label,
            "label_basis": "unknown",  # mostly histology, but the files do not say for which image
            "lesion_id": given["lesion_id"],
            "sex": given["sex"],
            "age": given["age_approx"],
            "body_site": given["anatom_site_general"],
            "source": "ISIC 2019",
        },
        where=str(folder),
    )


def _labels(folder: Path) -> pd.Series:
    """The class of each image in the one-hot table; empty without that table."""
    path = find(folder, "ISIC_2019_Training_GroundTruth.csv")
    if path is None:
        return pd.Series(dtype=object)
    table = read_csv(path).set_index("image").astype(float)
    if not ((table == 1).sum(axis=1) == 1).all() or not table.isin((0, 1)).all(axis=None):
        raise InputError(
            str(path),
            "a row without exactly one 1",
            expected="one-hot labels",
            todo="Is this a prediction file?",
        )
    return table.idxmax(axis=1)
