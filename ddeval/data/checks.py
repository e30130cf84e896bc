"""Data checks: what about this manifest should a reader of its numbers know?

Each check has a code that stays the same for ever and is a function of the frame. Its answer is a
finding, nothing found, or "not applicable": a manifest without patients has not passed the check that
no patient stands in two splits. Cells that break the manifest's rules are `manifest_problems`.
"""

import difflib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from ddeval import tables
from ddeval.data.splits import leaks, units

Status = Literal["passed", "failed", "not_applicable"]

MIN_TEST_IMAGES = 30
"""Below, a class's sensitivity has an interval of about 36 points (binomial, one half)."""


@dataclass(frozen=True)
class Check:
    """The answer of one check."""

    code: str
    """Such as DD001."""
    title: str
    """What would be wrong, in a few words."""
    status: Status
    message: str
    """What was found with its count and first example, or why the check does not apply."""


class NotApplicable(Exception):
    """Raised by a check that has nothing to look at; the text says what is missing."""


Finding = str | None


def data_checks(
    frame: pd.DataFrame,
    *,
    class_names: Sequence[str] | None = None,
    image_sha256: pd.Series | None = None,
    file_state: pd.Series | None = None,
) -> list[Check]:
    """Every check of `CHECKS` on a manifest, in the order of their codes.

    Parameters
    ----------
    frame : DataFrame
        From `read_manifest`, with `allow_leaks` where leaks are to be listed.
    class_names : list of str, optional
        The classes of the model; without it the labels themselves.
    image_sha256 : Series, optional
        Hash of each file by `image_id`.
    file_state : Series, optional
        By `image_id`: "there", "missing", or "outside" the allowed folders.
    """
    names = tuple(class_names) if class_names is not None else None
    given = Given(frame, names, image_sha256, file_state)
    return [_answer(code, title, check, given) for code, (title, check) in CHECKS.items()]


@dataclass(frozen=True)
class Given:
    """What the checks look at."""

    frame: pd.DataFrame
    class_names: tuple[str, ...] | None = None
    image_sha256: pd.Series | None = None
    file_state: pd.Series | None = None

    def held(self, *columns: str) -> pd.DataFrame:
        """The rows in which none of `columns` is empty; NotApplicable where there are none."""
        absent = [name for name in columns if name not in self.frame.columns]
        rows = self.frame if absent else self.frame[self.frame[list(columns)].notna().all(axis=1)]
        if absent or rows.empty:
            raise NotApplicable(f"no row has {' and '.join(absent or columns)}")
        return rows


def patient_in_two_splits(given: Given) -> Finding:
    return _leak(given, "patient")


def lesion_in_two_splits(given: Given) -> Finding:
    return _leak(given, "lesion")


def case_in_two_splits(given: Given) -> Finding:
    return _leak(given, "case")


def same_bytes_twice(given: Given) -> Finding:
    if given.image_sha256 is None:
        raise NotApplicable("the files were not hashed")
    rows = given.frame.assign(sha256=given.frame["image_id"].map(given.image_sha256))
    rows = rows[rows["sha256"].notna()]
    if rows.empty:
        raise NotApplicable("no file could be read")
    twice = rows[rows["sha256"].duplicated(keep=False)]
    if twice.empty:
        return None
    n_across = 0
    if "split" in twice.columns:
        n_across = int(twice.groupby("sha256")["split"].nunique().gt(1).sum())
    first = twice[twice["sha256"] == twice["sha256"].iloc[0]]["image_id"]
    across = f", {n_across} of them in two splits" if n_across else ""
    return f"{twice['sha256'].nunique()} files stand under several ids{across}, first {_listed(first)}"


def few_test_images(given: Given) -> Finding:
    rows = given.held("label")
    if "split" in rows.columns and rows["split"].notna().any():
        rows = rows[rows["split"] == "test"]
        if rows.empty:
            raise NotApplicable("no labelled row is in the split test")
    counts = rows["label"].value_counts()
    if given.class_names is not None:
        counts = counts.reindex(given.class_names).dropna()
    few = counts[counts < MIN_TEST_IMAGES].sort_values(kind="stable")
    if few.empty:
        return None
    shown = _listed([f"{name} ({n:.0f})" for name, n in few.items()])
    return f"{len(few)} of {len(counts)} classes have fewer than {MIN_TEST_IMAGES} test images: {shown}"


def class_absent(given: Given) -> Finding:
    rows = given.held("label")
    names = given.class_names
    where = ""
    if names is None:
        rows_with_split = given.held("label", "split")
        if "test" not in set(rows_with_split["split"]):
            raise NotApplicable("neither a class list nor a test split is given")
        names = tuple(sorted(rows_with_split["label"].unique()))
        rows = rows_with_split[rows_with_split["split"] == "test"]
        where = " of the test split"
    absent = sorted(set(names) - set(rows["label"]))
    return f"{len(absent)} classes label no image{where}: {_listed(absent)}" if absent else None


def unmapped_labels(given: Given) -> Finding:
    if "raw_label" not in given.frame.columns and given.class_names is None:
        raise NotApplicable("neither raw labels nor a class list is given")
    label = given.frame["label"] if "label" in given.frame.columns else pd.Series(None, given.frame.index)
    raw = given.frame["raw_label"] if "raw_label" in given.frame.columns else label
    lost = label.isna() & raw.notna()
    if given.class_names is not None:
        lost |= label.notna() & ~label.isin(given.class_names)
    if not lost.any():
        return None
    counts = raw[lost].fillna(label[lost]).value_counts()
    shown = _listed([f"{name} ({n})" for name, n in counts.items()])
    return f"{lost.sum()} images carry {len(counts)} diagnoses without a class: {shown}"


def one_path_under_two_ids(given: Given) -> Finding:
    images = given.held("image")["image"]
    twice = images[images.duplicated(keep=False)].drop_duplicates()
    return f"{len(twice)} paths stand twice: {_listed(twice)}" if len(twice) else None


def ids_that_look_alike(given: Given) -> Finding:
    alike = []
    for column in ("image_id", *(f"{kind}_id" for kind in ("case", "patient", "lesion"))):
        if column in given.frame.columns:
            ids = pd.Series(given.frame[column].dropna().unique(), dtype=object)
            same = ids.map(lambda v: unicodedata.normalize("NFC", v).casefold()).duplicated(keep=False)
            alike += [f"{column} {v!r}" for v in ids[same]]
    return (
        f"{len(alike)} ids differ only in case or accents' composition: {_listed(alike)}" if alike else None
    )


def without_label(given: Given) -> Finding:
    n = len(given.frame) - (given.frame["label"].notna().sum() if "label" in given.frame.columns else 0)
    return f"{n} of {len(given.frame)} images have no label" if n else None


def without_image(given: Given) -> Finding:
    n = len(given.frame) - (given.frame["image"].notna().sum() if "image" in given.frame.columns else 0)
    return f"{n} of {len(given.frame)} rows name no image file" if n else None


def no_unit_known(given: Given) -> Finding:
    known = [c for c in ("patient_id", "lesion_id", "case_id") if c in given.frame.columns]
    n = int(given.frame[known].isna().all(axis=1).sum()) if known else len(given.frame)
    if not n:
        return None
    return f"{n} of {len(given.frame)} images have no patient, lesion or case: each counts as independent"


def lesion_with_two_labels(given: Given) -> Finding:
    rows = given.held("lesion_id", "label")
    n_labels = rows.groupby("lesion_id")["label"].nunique()
    several = n_labels[n_labels > 1]
    return f"{len(several)} lesions carry several labels: {_listed(several.index)}" if len(several) else None


def linked_groups(given: Given) -> Finding:
    if "group" not in given.frame.columns or not set(given.frame.columns) & {"lesion_id", "case_id", "image"}:
        raise NotApplicable("neither lesions, cases nor image files are given")
    n_groups = given.frame["group"].groupby(units(given.frame)).nunique()
    n = int((n_groups > 1).sum())
    return f"{n} lesions, cases or files belong to several groups, or to one in some rows only" if n else None


def misspelt_columns(given: Given) -> Finding:
    known = [*tables.MANIFEST.names, "group"]
    found = []
    for name in map(str, given.frame.columns):
        if name not in known and not name.startswith(tables.ANSWER_PREFIX):
            near = difflib.get_close_matches(name.strip().lower(), known, n=1, cutoff=0.8)
            if near and near[0] not in given.frame.columns:
                found.append(f"{name!r} (is it {near[0]}?)")
    return f"{len(found)} columns are not used: {_listed(found)}" if found else None


def file_missing(given: Given) -> Finding:
    return _in_state(given, "missing", "are not there")


def file_outside(given: Given) -> Finding:
    return _in_state(given, "outside", "lie outside the allowed folders")


CHECKS: dict[str, tuple[str, Callable[[Given], Finding]]] = {
    "DD001": ("a patient in two splits", patient_in_two_splits),
    "DD002": ("a lesion in two splits", lesion_in_two_splits),
    "DD003": ("the same image file under two ids", same_bytes_twice),
    "DD004": (f"fewer than {MIN_TEST_IMAGES} test images of a class", few_test_images),
    "DD005": ("a class without an image", class_absent),
    "DD006": ("a diagnosis without a class", unmapped_labels),
    "DD007": ("a case in two splits", case_in_two_splits),
    "DD008": ("one path under two ids", one_path_under_two_ids),
    "DD009": ("ids that look alike", ids_that_look_alike),
    "DD010": ("images without a label", without_label),
    "DD011": ("rows without an image", without_image),
    "DD012": ("images without patient, lesion or case", no_unit_known),
    "DD013": ("a lesion with two labels", lesion_with_two_labels),
    "DD014": ("a lesion, case or file in two groups", linked_groups),
    "DD015": ("a column that may be misspelt", misspelt_columns),
    "DD016": ("an image file that is not there", file_missing),
    "DD017": ("an image file outside the allowed folders", file_outside),
}


def _answer(code: str, title: str, check: Callable[[Given], Finding], given: Given) -> Check:
    try:
        message = check(given)
    except NotApplicable as reason:
        return Check(code, title, "not_applicable", str(reason))
    return Check(code, title, "failed" if message else "passed", message or "")


def _leak(given: Given, kind: str) -> Finding:
    given.held(f"{kind}_id", "split")
    found = leaks(given.frame)
    found = found[found["kind"] == kind]
    if found.empty:
        return None
    first = found.iloc[0]
    return (
        f"{len(found)} {kind}s ({found['n_images'].sum()} images) stand in several splits,"
        f" first {first['id']!r} in {first['splits']}"
    )


def _in_state(given: Given, state: str, says: str) -> Finding:
    if given.file_state is None or given.file_state.empty:
        raise NotApplicable("the files were not looked for")
    ids = given.file_state.index[given.file_state == state]
    return f"{len(ids)} image files {says}: {_listed(ids)}" if len(ids) else None


def _listed(values: Sequence[object] | pd.Series | pd.Index, *, most: int = 5) -> str:
    shown = ", ".join(str(v) for v in list(values)[:most])
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")
