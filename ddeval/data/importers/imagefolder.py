"""An image folder: one folder a class, perhaps inside one folder a split."""

import logging
from pathlib import Path

import pandas as pd

from ddeval.data.importers.layout import image_files_below, manifest
from ddeval.errors import InputError

logger = logging.getLogger(__name__)

SPLIT_OF = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLIT_OF |= {"dev": "val", "calibration": "calibration", "test": "test"}


def import_imagefolder(folder: Path) -> pd.DataFrame:
    """`CLASS/….jpg` or `SPLIT/CLASS/….jpg`; deeper folders belong to the class above them.

    Splits are read where every folder at the top is named as one (train, val, valid, validation, dev,
    calibration, test). An image's id is its path below `folder`. No patient is known, so every image
    counts as independent.
    """
    files = image_files_below(folder)
    paths = [path.relative_to(folder) for path in files]
    tops = {path.parts[0] for path in paths if len(path.parts) > 1}
    has_splits = bool(tops) and {top.lower() for top in tops} <= set(SPLIT_OF)
    depth = 2 if has_splits else 1
    loose = [path for path in paths if len(path.parts) <= depth]
    if loose or not paths:
        raise InputError(
            str(folder),
            f"the image {loose[0].as_posix()!r} outside a class folder ({len(loose)} such)"
            if loose
            else "no image",
            expected="CLASS/image.jpg or SPLIT/CLASS/image.jpg",
            todo="Move it into the folder of its class, or describe the table with `ddeval init`.",
        )
    names = pd.Series([path.as_posix() for path in paths], dtype=object)
    label = pd.Series([path.parts[depth - 1] for path in paths], dtype=object)
    split = pd.Series(
        [SPLIT_OF[path.parts[0].lower()] if has_splits else None for path in paths], dtype=object
    )
    n_other = sum(p.is_file() and not p.name.startswith(".") for p in folder.rglob("*")) - len(files)
    if n_other:
        logger.warning("%s: %d files are not images by their suffix and were left out", folder, n_other)
    return manifest(
        {"image_id": names, "image": names, "label": label, "raw_label": label, "split": split},
        where=str(folder),
    )
