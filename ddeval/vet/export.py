"""Freezing: the readings of closed batches become a numbered label overlay, one file a split.

One function expands a case to its photographs. What it does is written into the overlay as its
policy, with the hash of the last event of the store, so that the overlay can be traced and rebuilt.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io, tables
from ddeval.data.manifest import with_cases
from ddeval.data.overlay import frozen
from ddeval.errors import InputError
from ddeval.vet.batches import read_batch
from ddeval.vet.consensus import Answer
from ddeval.vet.outcomes import CaseOutcome, case_outcomes, check_labels
from ddeval.vet.pairs import decisions
from ddeval.vet.reading import first_readings
from ddeval.vet.store import Store

POLICY = (
    "Every photograph of a case takes the case's consensus; a photograph that more than half of the "
    "readers of its case marked as poor is poor_image. Reported cases have no label. Of two photographs "
    "decided to be the same, the one of this split is duplicate; where both are of it, the second."
)


def freeze(
    store: Store,
    batches: Sequence[str],
    *,
    manifest: pd.DataFrame,
    class_of: Mapping[str, str],
    folder: Path,
    image_sha256: Mapping[str, str] | None = None,
    may_lack: bool = False,
) -> Path:
    """Write the overlay `folder/<split>-v<n>.parquet` and return its path.

    Beside it, in `folder/readings/` under the same name, what each blind first reading said: `case_id`,
    `reader` and `answers`, the classes surest first, none after an exit. `ddeval compare` sets readers beside
    checkpoints with it.

    The number follows the last overlay of the split. When nothing changed since, that overlay is
    returned and nothing is written: freezing is idempotent.

    Parameters
    ----------
    batches : names
        All of one split, all closed, all opened over this manifest.
    manifest : DataFrame
        MANIFEST: gives the photographs of every case.
    class_of : mapping
        Class of every diagnosis.
    image_sha256 : mapping, optional
        Hash of each photograph's file, where the files are at hand.
    may_lack : bool
        Whether the manifest may lack vetted cases, as it does where a patient withdrew: they are left out.

    Raises
    ------
    InputError
        For an open batch, batches of two splits, a given label or a diagnosis without a class, or a vetted
        case the manifest lacks.
    """
    manifest = with_cases(manifest)
    opened = [read_batch(store, name) for name in batches]
    still_open = [batch.name for batch in opened if batch.is_open]
    if still_open or not opened:
        raise InputError(
            f"batch {still_open[0]}" if still_open else "vet freeze",
            "a batch that still takes readings" if still_open else "no batch",
            expected="closed batches",
            todo="Close it first with `ddeval vet close`.",
        )
    splits = {batch.split for batch in opened}
    if len(splits) > 1:
        raise InputError(
            f"batches {', '.join(batches)}",
            f"splits {', '.join(sorted(splits))}",
            expected="batches of one split",
            todo="Freeze each split on its own: verdicts on test never reach training.",
        )
    split = splits.pop()
    rows: list[dict[str, Any]] = []
    for batch in opened:
        check_labels(store, batch, class_of=class_of)
        outcomes = case_outcomes(store, batch, class_of=class_of)
        poor = _poor_photographs(store, batch.name)
        for outcome in outcomes:
            if outcome.n_readings or outcome.is_reported:
                rows += _images(outcome, manifest, poor=poor, may_lack=may_lack)
    rows += _duplicates(store, batches, manifest, split=split)
    rows.sort(key=lambda row: row["outcome"] != "unresolved")  # what one batch has settled, none unsettles
    frame = pd.DataFrame(rows, columns=[c for c in tables.LABELS.names if c != "overlay_version"])
    frame = frame.drop_duplicates("image_id", keep="last").sort_values("image_id", ignore_index=True)
    frame["image_sha256"] = frame["image_id"].map(dict(image_sha256 or {})).astype(object)
    content = io.value_sha256(frame.where(frame.notna(), None).to_dict("records"))

    versions = frozen(folder, split)
    number = max(versions, default=0)
    last = versions.get(number)
    if last is not None and io.read_parquet(last)[1].get("content_sha256") == content:
        return last
    version = f"v{number + 1}"
    frame["overlay_version"] = version
    report = store.verify()
    readings = pd.concat([_first_readings(store, batch.name, class_of) for batch in opened])
    readings = readings[readings["case_id"].isin(manifest["case_id"])]
    path = folder / f"{split}-{version}.parquet"
    io.write_parquet(folder / "readings" / path.name, readings.sort_values(["case_id", "reader"]))
    io.write_parquet(
        path,
        frame[list(tables.LABELS.names)],
        metadata={
            "overlay_version": version,
            "split": split,
            "content_sha256": content,
            "policy": POLICY,
            "batches": list(batches),
            "manifest_sha256": sorted({batch.manifest_sha256 for batch in opened}),
            "class_list_sha256": io.value_sha256(sorted(set(class_of.values()))),
            "head_hash": report.head,
            "n_events": report.n_events,
            "chain_is_intact": report.is_intact,
        },
    )
    return path


def as_source(
    overlay: pd.DataFrame, *, columns: Mapping[str, str], labels: Mapping[str, str]
) -> pd.DataFrame:
    """The vetted labels in the user's own column names and label strings, one row an image.

    `columns` maps `image_id`, `label` and any LABELS column to the user's names, `labels` our classes
    to theirs; a class without a string is an InputError. Images without a label are left empty.
    """
    heaviest = overlay["labels"].map(lambda weights: weights[0]["label"] if len(weights) else None)
    unknown = sorted(set(heaviest.dropna()) - set(labels))
    if unknown:
        raise InputError(
            "export --as-source",
            f"class {unknown[0]!r} without a string of yours ({len(unknown)} such)",
            expected="a string for every class",
            todo="Add it to `labels:` of the mapping.",
        )
    frame = overlay.assign(label=heaviest.map(labels))
    return frame[list(columns)].rename(columns=dict(columns))


def _images(
    outcome: CaseOutcome, manifest: pd.DataFrame, *, poor: Mapping[str, float], may_lack: bool
) -> list[dict[str, Any]]:
    """One row a photograph of the case (see `POLICY`); none of a withdrawn patient's case."""
    photographs = manifest[manifest["case_id"] == outcome.case_id]
    if photographs.empty and not may_lack:
        raise InputError(
            f"case {outcome.case_id}",
            "no photograph in the manifest",
            expected="the manifest the batch was opened over",
            todo="Pass it with --data.",
        )
    labels = [{"label": k, "weight": round(w, 6)} for k, w in outcome.consensus.labels.items()]
    rows = []
    for image in photographs.to_dict("records"):
        result: str = "reported" if outcome.is_reported else outcome.consensus.outcome
        if labels and poor.get(image["image_id"], 0.0) * 2 > outcome.n_readings:
            result = "poor_image"
        rows.append(
            {
                "image_id": image["image_id"],
                "case_id": outcome.case_id,
                "split": image["split"],
                "given_label": image["label"],
                "outcome": result,
                "labels": labels if result in ("keep", "compatible", "relabel") else [],
                "confidence": labels[0]["weight"] if labels else None,
                "rule": outcome.consensus.rule,
                "readers": list(outcome.readers),
                "first_answers": list(outcome.first_answers),
                "basis": "histology" if outcome.consensus.rule == "histology" else "reading",
            }
        )
    return rows


def _first_readings(store: Store, batch: str, class_of: Mapping[str, str]) -> pd.DataFrame:
    """`case_id, reader, answers` of the blind first readings of a batch."""
    first = first_readings(store, batch)
    said = [_classes(answer, class_of) for answer in first["answer"]]
    return pd.DataFrame({"case_id": first["case_id"], "reader": first["actor"], "answers": said})


def _classes(answer: Answer, class_of: Mapping[str, str]) -> list[str]:
    """The classes an answer names, surest first: by confidence where there is one, else in their order."""
    names = list(answer.diagnoses)
    if answer.confidences:
        order = sorted(range(len(names)), key=lambda i: -answer.confidences[i])
        names = [names[i] for i in order]
    return list(dict.fromkeys(class_of[name] for name in names))


def _poor_photographs(store: Store, batch: str) -> dict[str, float]:
    """How many first readings marked each photograph as poor."""
    counts: dict[str, float] = {}
    for details in first_readings(store, batch)["details"]:
        for image_id in details.get("poor_photographs", ()):
            counts[image_id] = counts.get(image_id, 0.0) + 1
    return counts


def _duplicates(
    store: Store, batches: Sequence[str], manifest: pd.DataFrame, *, split: str
) -> list[dict[str, Any]]:
    """Photographs decided to be the same as another: copies across splits, or seconds of this one."""
    known: dict[str, dict[str, Any]] = manifest.set_index("image_id").to_dict("index")  # type: ignore[assignment]
    rows = []
    for batch in batches:
        found = decisions(store, batch)
        for pair in found[found["decision"] == "same_photograph"].to_dict("records"):
            own = [i for i in (pair["image_id_b"], pair["image_id_a"]) if i in known]
            own = [i for i in own if known[i]["split"] == split][:1]
            rows += [
                {
                    "image_id": image_id,
                    "case_id": known[image_id]["case_id"],
                    "split": split,
                    "given_label": known[image_id]["label"],
                    "outcome": "duplicate",
                    "labels": [],
                    "confidence": None,
                    "rule": "pair",
                    "readers": [pair["reader"]],
                    "first_answers": [],
                    "basis": "reading",
                }
                for image_id in own
            ]
    return rows
