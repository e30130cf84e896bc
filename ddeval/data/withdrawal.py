"""Withdrawal: what must go when a patient asks, and who still holds it?

A tombstone beside the manifest keeps the patient out from then on, whatever table is imported later. It
holds a hash of the id and the date, nothing else.
"""

import hashlib
from pathlib import Path

import pandas as pd

from ddeval import io

TOMBSTONES = "withdrawn.json"


def is_withdrawn(frame: pd.DataFrame, folder: Path) -> pd.Series:
    """Which rows belong to a patient with a tombstone in `folder`."""
    path = folder / TOMBSTONES
    if "patient_id" not in frame.columns or not path.is_file():
        return pd.Series(False, index=frame.index)
    gone = {entry["patient_sha256"] for entry in io.read_json(path)["withdrawn"]}
    return frame["patient_id"].map(patient_sha256, na_action="ignore").isin(gone)


def patient_sha256(patient_id: str) -> str:
    return hashlib.sha256(f"patient:{patient_id}".encode()).hexdigest()
