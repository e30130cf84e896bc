"""Sections of an audit's page: health, doubtful labels, overlap, duplicates side by side, off topic.

Each takes a table of `ddeval.audit` and shows it. What is shown is a suspicion: the page never calls a
label wrong.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ddeval.report import figures
from ddeval.report.cells import sort_key, value_cell
from ddeval.report.classes import HEAT_TICKS, MAX_HEAT_CLASSES, N_PAIRS, heat_level
from ddeval.report.components import (
    Block,
    Card,
    Cell,
    Column,
    DotPlot,
    DotRow,
    Fact,
    Facts,
    Gallery,
    Heat,
    Listing,
    Photo,
    Section,
    Table,
    Text,
    missing,
)
from ddeval.report.evidence import PHOTOS_LEFT_OUT
from ddeval.report.inputs import data_uri
from ddeval.report.measures import DOUBTS
from ddeval.report.rounding import counted, rounded, shown, shown_tick

FOUND_BY = {
    "file": "equal files",
    "pixels": "equal pixels",
    "perceptual": "equal structure",
    "embedding": "embeddings",
}


def health_section(health: pd.DataFrame) -> Section:
    """Estimated noise of every class's labels: dots, and every number in a table (`class_health`)."""
    rows = []
    for row in health.to_dict("records"):
        noise, n = row["label_noise"], int(row["n_images"])
        drawing = figures.plot_interval(noise, float("nan"), float("nan"), axis=figures.PERCENT_AXIS)
        text = shown(noise, "percent", n=n)
        rows.append(DotRow(str(row["class_name"]), shown(n, "count"), drawing, text))
    measures = ("label_noise", "inverse_noise", "mean_label_quality")
    columns = [Column("Class", is_number=False), Column("Photographs")]
    columns += [Column(DOUBTS[name].title, help=DOUBTS[name].meaning) for name in measures]
    cells = [
        [
            Cell(str(row["class_name"])),
            Cell(shown(row["n_images"], "count"), sort=float(row["n_images"])),
            *(
                value_cell(row[name.removeprefix("mean_")], DOUBTS[name].unit, n=int(row["n_images"]))
                for name in measures
            ),
        ]
        for row in health.to_dict("records")
    ]  # fmt: skip
    plot = DotPlot(
        "health-plot",
        "Which classes’ labels are doubted",
        "Each dot is the share of a class’s labels that probably belong to another class, in percent. It is "
        "estimated from the model and has no interval: a rare class’s dot strays.",
        rows,
        figures.plot_axis(figures.PERCENT_AXIS),
        value_title="doubted",
    )
    table = Table("health-table", "Health of every class", columns, cells, is_filterable=True, is_folded=True)
    return Section("health", "Health per class", [plot, table], menu="Health")


def doubtful_section(issues: pd.DataFrame, *, folder: Path, has_photos: bool, n_all: int) -> Section:
    """The gallery of `doubtful_gallery` under its heading."""
    gallery: Block = Text("No labelled photograph was audited.", style="missing")
    if len(issues):
        gallery = doubtful_gallery(
            issues, folder=folder, has_photos=has_photos, n_all=n_all, id="doubtful-cards"
        )
    return Section("doubtful", "The most doubtful labels", [gallery], menu="Doubtful labels")


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
            ("quality", shown(row["label_quality"], "probability")),
            ("rank", shown(row["rank"], "count")),
            ("image", image_id),
        )
        why = str(row["reason"])
        cards.append(Card((photo,), lines, filters=f"{given} → {predicted} {image_id} {why}", text=why))
    return Gallery(
        id,
        "Worst first",
        "Quality runs from 0 to 1. It is a list to look through: a reader decides.",
        cards,
        note=f"The {shown(len(cards), 'count')} most doubtful{_of(n_all)}.",
        left_out=_left_out(cards, has_photos=has_photos),
    )


def overlap_section(overlap: pd.DataFrame, health: pd.DataFrame, *, issues: pd.DataFrame) -> Section:
    """Pairs of classes that the labels mix up, as a list and, for few classes, as heat.

    A pair leads to its photographs where `issues`, those the page shows, has any.
    """
    if overlap.empty:
        supply = "No two classes are mixed up in the labels, as far as the model can tell."
        return missing("overlap", "Classes mixed up in the labels", supply, menu="Overlap")
    held = health[health["n_images"] > 0].sort_values("n_images", ascending=False, kind="stable")
    on_page, items = set(issues["given_label"] + " → " + issues["predicted_label"]), []
    for row in overlap.head(N_PAIRS).to_dict("records"):
        pair = f"{row['given_label']} → {row['likely_label']}"
        n, share = counted(row["n_images"], "photographs"), shown(row["share"], "percent")
        link = "doubtful-cards" if pair in on_page else ""
        sub = f"about {n}, {share} of the label"
        items.append(Cell(pair, sub=sub, link=link, filters=pair if link else ""))
    blocks: list[Block] = [Listing("overlap-pairs", "Most often mixed up, label → more likely", items)]
    names = [*held["class_name"], *(health.loc[health["n_images"] == 0, "class_name"])]
    if len(names) <= MAX_HEAT_CLASSES:
        counts = dict(zip(health["class_name"], health["n_images"], strict=True))
        blocks.insert(0, overlap_heat(overlap, n_by_class={name: int(counts[name]) for name in names}))
    return Section("overlap", "Classes mixed up in the labels", blocks, menu="Overlap")


def overlap_heat(overlap: pd.DataFrame, *, n_by_class: Mapping[str, int]) -> Heat:
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
        row = [Cell(given, title=counted(n, "photographs"))]
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
        "overlap-heat",
        "Which classes are mixed up in the labels",
        "A row is the label as given, a column the class it more likely is; the numbers are estimated "
        "percent of the row. Under 1 % has no colour.",
        Table("overlap-table", "Overlap of the classes", columns, rows, is_sortable=False),
        scale=[(heat_level(tick) or 0, f"{shown_tick(tick, 'percent')} %") for tick in HEAT_TICKS],
        row_title="labelled",
        column_title="more likely",
    )


def duplicates_section(
    pairs: pd.DataFrame, found: Mapping[str, int], *, folder: Path, has_photos: bool, n_cards: int
) -> Section:
    """How many pairs of each kind, and the first `n_cards` side by side; `found` is of audit.json."""
    if pairs.empty:
        supply = "No two photographs are alike. Pictures are compared where the manifest names files, "
        return missing("duplicates", "Duplicates and leaks", supply + "embeddings where the run has them.")
    kinds = pairs["kind"].value_counts()
    facts = Facts(
        "Pairs of photographs",
        [
            Fact("All", shown(found["n_pairs"], "count")),
            Fact("Across splits (leaks)", shown(found["n_leak"], "count")),
            Fact("Across patients", shown(found["n_across_groups"], "count")),
            Fact("With two labels", shown(found["n_contradictory"], "count")),
            *(Fact(f"Found by {FOUND_BY[str(kind)]}", shown(int(n), "count")) for kind, n in kinds.items()),
        ],
    )
    gallery = duplicates_gallery(
        pairs.head(n_cards), folder=folder, has_photos=has_photos, n_all=len(pairs),
        id="duplicates-cards",
    )  # fmt: skip
    return Section("duplicates", "Duplicates and leaks", [facts, gallery], menu="Duplicates")


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
        note=f"{counted(len(cards), 'pairs')}{_of(n_all)}, leaks first.",
        left_out=_left_out(cards, has_photos=has_photos),
        is_wide=True,
    )


def off_topic_section(off_topic: pd.DataFrame, *, folder: Path, has_photos: bool, n_cards: int) -> Section:
    """The first `n_cards` images of a class nobody labels, then those least like any other."""
    title = "Photographs that may be off topic"
    if off_topic.empty:
        supply = "None. They are sought by embeddings, and by classes the model names but no label does."
        return missing("off-topic", title, supply, menu="Off topic")
    cards = []
    for row in off_topic.head(n_cards).to_dict("records"):
        image_id, why, given = (str(row[name]) for name in ("image_id", "why", "given_label"))
        uri = data_uri(folder, row.get("thumbnail")) if has_photos else ""
        lines = (
            ("labelled", given),
            ("score", shown(row["score"], "probability")),
            ("image", image_id),
        )
        cards.append(
            Card((Photo(image_id, f"{image_id}: {why}", uri),), lines, f"{given} {why} {image_id}", text=why)
        )
    gallery = Gallery(
        "off-topic-cards",
        "Unlike the rest, or of a class nobody labels",
        f"Score: {DOUBTS['off_topic_score'].meaning} Seldom photographed conditions are unlike the rest too.",
        cards,
        note=f"The first {shown(len(cards), 'count')}{_of(len(off_topic))}.",
        left_out=_left_out(cards, has_photos=has_photos),
    )
    return Section("off-topic", title, [gallery], menu="Off topic")


def _left_out(cards: Sequence[Card], *, has_photos: bool) -> str:
    """Why a gallery has no photographs; empty where it has one."""
    if not has_photos:
        return PHOTOS_LEFT_OUT
    has_one = any(photo.data_uri for card in cards for photo in card.photos)
    return "" if has_one else "No photograph was kept with the audit."


def _of(n_all: int | None) -> str:
    return "" if n_all is None else f" of {shown(n_all, 'count')}"
