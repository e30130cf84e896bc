"""Retirement: a split that judged becomes one that is learnt from, once and for all, and the ledger says so.

The manifest that was judged on stays as it is: its numbers keep their meaning. A second one is written in
which the split's images are training images; both ledgers of looks get a line, and whoever scores the old
split from then on is told. Vetted labels of the split come along as labels of train.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ddeval import io
from ddeval.data.manifest import manifest_sha256, read_manifest, write_manifest
from ddeval.data.overlay import Overlay, frozen
from ddeval.errors import InputError
from ddeval.score.folder import record_retirement

COLUMN = "retired_from"
"""In the new manifest: the split an image was of."""
TO = "train"


class Retirement(NamedTuple):
    """What was, or would be, written."""

    manifest: Path
    overlay: Path | None
    """Of train, with the split's vetted labels; None where none were given."""
    n_images: int
    n_groups: int
    """Independent groups (patients, else lesions, cases) that cannot judge any more."""
    n_vetted: int
    """Images in the overlay."""


def retire(
    manifest: Path,
    split: str,
    out: Path,
    *,
    reason: str,
    by: str,
    overlays: Sequence[Overlay] = (),
    folder: Path = Path("labels"),
    dry_run: bool = False,
) -> Retirement:
    """Write `out`, in which the images of `split` are of train, and enter it into both ledgers.

    Parameters
    ----------
    reason, by : str
        Why and who, for the ledger; neither may be empty.
    overlays : sequence of Overlay
        Vetted labels of `split` and of train, one of each at most: together they become the next overlay of
        train in `folder`.

    Raises
    ------
    InputError
        For a split that is learnt from already or holds no image, a file that exists, an overlay of another
        split, or labels that contradict each other.
    """
    frame = read_manifest(manifest)
    is_retired = frame["split"].eq(split) if "split" in frame.columns else pd.Series(False, index=frame.index)
    _check(manifest, split, out, is_retired, reason=reason, by=by)
    merged = _merged(overlays, split, set(frame.loc[is_retired, "image_id"]))
    number = 1 + max(frozen(folder, TO), default=0)
    path = folder / f"{TO}-v{number}.parquet" if merged is not None else None
    was = frame[COLUMN] if COLUMN in frame.columns else pd.Series(None, index=frame.index, dtype=object)
    new = frame.assign(
        split=frame["split"].mask(is_retired, TO), **{COLUMN: was.where(~is_retired, split).astype(object)}
    )
    found = Retirement(
        out, path, int(is_retired.sum()), int(frame.loc[is_retired, "group"].nunique()),
        0 if merged is None else len(merged),
    )  # fmt: skip
    if dry_run:
        return found
    line = {
        "retired": split,
        "to": TO,
        "reason": reason,
        "by": by,
        "n_images": found.n_images,
        "manifest": manifest.name,
        "manifest_sha256": manifest_sha256(frame),
        "new_manifest": out.name,
        "new_manifest_sha256": manifest_sha256(new),
        "overlays": [f"{o.split}-{o.version}" for o in overlays],
    }
    for place in (manifest, out):  # first: what is not in the ledger is not retired
        record_retirement(place, line)
    if merged is not None and path is not None:
        version = path.stem.removeprefix(f"{TO}-")
        io.write_parquet(
            path,
            merged.assign(overlay_version=version),
            metadata={
                "overlay_version": version,
                "split": TO,
                "policy": f"Overlays put together when {split} was retired into {TO}; each as it was frozen.",
                "made_from": {f"{o.split}-{o.version}": o.sha256 for o in overlays},
                "retired": line,
            },
        )
    write_manifest(out, new)
    return found


def _check(manifest: Path, split: str, out: Path, is_retired: pd.Series, *, reason: str, by: str) -> None:
    if split not in ("val", "calibration", "test"):
        raise InputError(
            "SPLIT", repr(split), expected="test, calibration or val", todo=f"Only these are kept from {TO}."
        )
    if not is_retired.any():
        raise InputError(
            str(manifest), f"no image of split {split}", expected="some", todo="Check the split."
        )
    if out.resolve() == manifest.resolve() or out.exists():
        raise InputError(
            f"--out {out}", "a file that exists", expected="a new file",
            todo="The manifest that was judged on stays as it is.",
        )  # fmt: skip
    for name, text in (("--reason", reason), ("--by", by)):
        if not text.strip():
            raise InputError(name, "nothing", expected="a sentence for the ledger", todo="Say it.")


def _merged(overlays: Sequence[Overlay], split: str, image_ids: set[str]) -> pd.DataFrame | None:
    """Rows of all overlays as rows of train; those of the split are among its images."""
    splits = [overlay.split for overlay in overlays]
    strange = [name for name in splits if name not in (split, TO)] or [
        n for n in splits if splits.count(n) > 1
    ]
    if strange:
        raise InputError(
            "--labels",
            f"overlays of {', '.join(splits)}",
            expected=f"one of {split}, and one of {TO} at most",
            todo="Name the last frozen one of each.",
        )
    if split not in splits:
        if overlays:
            raise InputError(
                "--labels", f"labels of {TO} alone", expected=f"those of {split} too", todo="Leave it out."
            )
        return None
    for overlay in overlays:
        unknown = set(overlay.frame["image_id"]) - image_ids
        if overlay.split == split and unknown:
            raise InputError(
                f"overlay {overlay.split}-{overlay.version}",
                f"image {min(unknown)!r}, not of split {split} ({len(unknown)} such)",
                expected=f"images of {split} in this manifest",
                todo="Pass the manifest the overlay was made for.",
            )
    frame = pd.concat([overlay.frame for overlay in overlays], ignore_index=True).assign(split=TO)
    return frame.sort_values("image_id", ignore_index=True)
