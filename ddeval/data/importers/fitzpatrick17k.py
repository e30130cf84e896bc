"""Fitzpatrick17k: clinical images of 114 conditions with skin types (Groh et al. 2021, arXiv:2104.09957)."""

from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd

from ddeval.data.importers.layout import SKIN_TYPE_OF_NUMBER, image_of, manifest, mapped, read_published

SKIN_TYPES = SKIN_TYPE_OF_NUMBER | {"-1": None}


def import_fitzpatrick17k(folder: Path) -> pd.DataFrame:
    """`fitzpatrick17k.csv`; images, where downloaded, are named by their md5.

    Skin types were read off the images by trained annotators, not dermatologists, so their source is
    left empty. The 3- and 9-way partitions and the audit `qc` of 504 images are kept as given.
    """
    given = read_published(folder, "fitzpatrick17k.csv")
    where = str(folder)
    return manifest(
        {
            "image_id": given["md5hash"],
            "image": image_of(folder, given["md5hash"]),
            "label": given["label"],
            "raw_label": given["label"],
            "label_basis": "unknown",
            "skin_type": mapped(given["fitzpatrick_scale"], SKIN_TYPES, where=where),
            "source": given["url"].map(lambda url: urlsplit(url).hostname, na_action="ignore"),
            "nine_partition_label": given["nine_partition_label"],
            "three_partition_label": given["three_partition_label"],
            "qc": given["qc"],
        },
        where=where,
    )
