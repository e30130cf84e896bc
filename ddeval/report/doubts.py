"""Parts of an audit's page: doubtful labels, duplicates side by side, which classes overlap.

Each takes a table of `ddeval.audit` and gives a block. What is shown is a suspicion: the page never calls
a label wrong.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ddeval.report.cells import sort_key
from ddeval.report.classes import HEAT_TICKS, heat_level
from ddeval.report.components import Card, Cell, Column, Gallery, Heat, Photo, Table
from ddeval.report.evidence import PHOTOS_LEFT_OUT
from ddeval.report.inputs import data_uri
from ddeval.report.rounding import rounded, shown, shown_tick


def doubtful_gallery(
    issues: pd.DataFrame, *, folder: Path, has_photos: bool, n_all: int | None = None, id: str = "doubtful"
) -> Gallery:
    """The most doubtful labels, worst first.

    Parameters
    ----------
    issues : DataFrame
        ISSUES (`image_id, rank, label_quality, given_label, predicted_label, reason`) and `thumbnail`.
    folder : Path
        Where `thumbnail` is looked for.
    n_all : int, optional
        How many there are in all.
    """
    cards = []
    for row in issues.to_dict("records"):
        given, predicted, image_id = (str(row[n]) for n in ("given_label", "predicted_label", "image_id"))
        alt = f"{image_id}: labelled {given}, more likely {predicted}"
        photo = Photo(image_id, alt, data_uri(folder, row.get("thumbnail")) if has_photos else "")
        lines = (
            ("rank", shown(row["rank"], "count")),
            ("labelled", given),
            ("likely", predicted),
            ("quality", shown(row["label_quality"], "probability")),
            ("why", str(row["reason"])),
            ("image", image_id),
        )
        cards.append(Card((photo,), lines, filters=f"{given} → {predicted} {image_id} {row['reason']}"))
    return Gallery(
        id,
        "The most doubtful labels",
        "Worst first; quality runs from 0 to 1. It is a list to look through: a reader decides.",
        cards,
        note=f"The {shown(len(cards), 'count')} most doubtful{_of(n_all)}.",
        left_out="" if has_photos else PHOTOS_LEFT_OUT,
    )


def duplicates_gallery(
    pairs: pd.DataFrame, *, folder: Path, has_photos: bool, n_all: int | None = None, id: str = "duplicates"
) -> Gallery:
    """Pairs that may be one photograph or one lesion, side by side.

    Parameters
    ----------
    pairs : DataFrame
        `image_id_a, image_id_b, similarity, kind` and, where known, `label_a, label_b, split_a, split_b,
        thumbnail_a, thumbnail_b`, leaks first.
    n_all : int, optional
        How many there are in all.
    """
    cards = []
    for row in pairs.to_dict("records"):
        ids = tuple(str(row[f"image_id_{side}"]) for side in "ab")
        photos = tuple(
            Photo(
                name,
                f"{name}, {way} of a pair",
                data_uri(folder, row.get(f"thumbnail_{side}")) if has_photos else "",
            )
            for name, side, way in zip(ids, "ab", ("left", "right"), strict=True)
        )
        lines = [("kind", str(row["kind"])), ("similarity", shown(row["similarity"], "probability"))]
        for name in ("label", "split"):
            both = [str(row[f"{name}_{side}"]) for side in "ab" if pd.notna(row.get(f"{name}_{side}"))]
            if both:
                lines.append((name, both[0] if len(set(both)) == 1 else " | ".join(both)))
        lines.append(("images", " | ".join(ids)))
        cards.append(Card(photos, lines, filters=" ".join(text for _, text in lines)))
    return Gallery(
        id,
        "Duplicates, side by side",
        "Two photographs a card. A pair across splits is a leak; of two labels in a pair one is wrong.",
        cards,
        note=f"{shown(len(cards), 'count')} pairs{_of(n_all)}, leaks first.",
        left_out="" if has_photos else PHOTOS_LEFT_OUT,
        is_wide=True,
    )


def _of(n_all: int | None) -> str:
    return "" if n_all is None else f" of {shown(n_all, 'count')}"


def overlap_heat(overlap: pd.DataFrame, *, n_by_class: Mapping[str, int], id: str = "overlap") -> Heat:
    """Estimated share of each class's labels that belong to another class.

    Parameters
    ----------
    overlap : DataFrame
        `given_label, likely_label, share` (of the given label's images), a row a pair.
    n_by_class : mapping
        Images of each class; its order is that of rows and columns.
    """
    shares = dict(
        zip(zip(overlap["given_label"], overlap["likely_label"], strict=True), overlap["share"], strict=True)
    )
    rows = []
    for given, n in n_by_class.items():
        row = [Cell(given, title=f"{shown(n, 'count')} photographs")]
        for likely in n_by_class:
            share = shares.get((given, likely), 0.0)
            title = (
                f"labelled {given}, more likely {likely}: {shown(share, 'percent')} of {shown(n, 'count')}"
            )
            text = rounded(share, "percent") if share > 0 else ""
            row.append(Cell(text, title=title, level=heat_level(share), sort=sort_key(share)))
        rows.append(row)
    columns = [Column("", is_number=False), *(Column(name) for name in n_by_class)]
    return Heat(
        f"{id}-heat",
        "Which classes are mixed up in the labels",
        "A row is the label as given, a column the class it more likely is; the numbers are estimated "
        "percent of the row. Under 1 % has no colour.",
        Table(f"{id}-table", "Overlap of the classes", columns, rows, is_sortable=False),
        scale=[(heat_level(tick) or 0, f"{shown_tick(tick, 'percent')} %") for tick in HEAT_TICKS],
        row_title="labelled",
        column_title="more likely",
    )
