"""Importers: published data sets as manifests, one function `folder -> frame` each.

A file that is not there is never made up: images that were not downloaded leave `image` empty. Any other
table comes in by a mapping (`ddeval.data.mapping`), without code.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ddeval.data.importers.ddi import import_ddi
from ddeval.data.importers.fitzpatrick17k import import_fitzpatrick17k
from ddeval.data.importers.ham10000 import import_ham10000
from ddeval.data.importers.imagefolder import import_imagefolder
from ddeval.data.importers.isic2019 import import_isic2019
from ddeval.data.importers.pad_ufes_20 import import_pad_ufes_20
from ddeval.data.importers.scin import import_scin

IMPORTERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "ham10000": import_ham10000,
    "isic2019": import_isic2019,
    "scin": import_scin,
    "fitzpatrick17k": import_fitzpatrick17k,
    "pad_ufes_20": import_pad_ufes_20,
    "ddi": import_ddi,
    "imagefolder": import_imagefolder,
}
