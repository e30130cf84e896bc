"""The parts every page is made of: a section is a list of blocks, a block is one of these records.

A block holds words and ready-made cells; `templates/components.html` has one macro for each, found by
`kind`. Run, compare and audit pages differ only in which blocks their sections hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from markupsafe import Markup

Tone = Literal["good", "bad", "unsure", "plain"]
"""What a mark means; each tone also has its own sign and word, so that colour is never the only carrier."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    sort: float | str | None = None
    """What the column is sorted by, where that is not the text; None sorts last."""
    sub: str = ""
    """A second, quieter line: the interval."""
    title: str = ""
    """What a pointer resting on the cell is told."""
    tone: Tone = "plain"
    level: int | None = None
    """Step of the heat scale, 0 to 20."""
    series: int | None = None
    """Colour of the checkpoint the cell names."""
    link: str = ""
    """An anchor of this page, without the hash sign."""
    filters: str = ""
    """Text that following the link types into the filter of the block it leads to."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    is_number: bool = True
    """Numbers stand to the right in figures of equal width."""
    help: str = ""
    series: int | None = None
    """Colour of the checkpoint the column is of."""


@dataclass(frozen=True)
class Table:
    """Rows under a header that stays; the first cell of a row is its header."""

    kind: ClassVar[str] = "table"
    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    is_sortable: bool = True
    is_filterable: bool = False
    is_folded: bool = False
    is_wrapped: bool = False
    """Cells hold sentences: they break into lines."""
    is_flat: bool = False
    """On a desk a cell's second line stands beside the first."""
    note: str = ""
    groups: Sequence[tuple[str, int]] = ()
    """A second header above the first: a title and how many columns it spans."""


@dataclass(frozen=True)
class Heat:
    """A square table as coloured cells, with the scale it is coloured by."""

    kind: ClassVar[str] = "heat"
    id: str
    title: str
    how_to_read: str
    table: Table
    scale: Sequence[tuple[int, str]]
    """Level and the words below it."""
    row_title: str
    column_title: str


@dataclass(frozen=True)
class Figure:
    """A drawing: what it shows, how it is read, and the table it was drawn from folded beneath."""

    kind: ClassVar[str] = "figure"
    id: str
    title: str
    how_to_read: str
    drawing: Markup
    table: Table | None = None
    keys: Sequence[tuple[str, str]] = ()
    """Class of a mark and what it stands for."""
    facts: Sequence["Fact"] = ()
    """Numbers that belong beside the drawing."""


@dataclass(frozen=True)
class DotRow:
    """One line of a dot plot."""

    name: str
    n: str
    drawing: Markup
    text: str
    sub: str = ""
    note: str = ""
    """Said instead of a drawing, for example why a group is not shown."""


@dataclass(frozen=True)
class DotPlot:
    """Named rows, each with a dot and its interval on one shared axis: a Cleveland or a forest plot."""

    kind: ClassVar[str] = "dot_plot"
    id: str
    title: str
    how_to_read: str
    rows: Sequence[DotRow]
    axis: Markup
    n_title: str = "n"
    value_title: str = ""
    """Whose value stands beside the drawing, where it holds several."""
    table: Table | None = None
    keys: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Fact:
    """A named value."""

    name: str
    text: str
    sub: str = ""
    is_code: bool = False
    title: str = ""


@dataclass(frozen=True)
class Facts:
    kind: ClassVar[str] = "facts"
    title: str
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Text:
    """A paragraph, or with `style` a line that must not be missed."""

    kind: ClassVar[str] = "text"
    text: str
    style: Literal["plain", "note", "missing"] = "plain"


@dataclass(frozen=True)
class Listing:
    """A numbered list whose items may lead to another block."""

    kind: ClassVar[str] = "listing"
    id: str
    title: str
    items: Sequence[Cell]


@dataclass(frozen=True)
class Photo:
    """One photograph, or the place where it was left out."""

    image_id: str
    alt: str
    data_uri: str = ""
    """data:image/webp;base64,…; empty when photographs are left out of the file."""


@dataclass(frozen=True)
class Card:
    """One case of a gallery: one photograph, or several side by side."""

    photos: Sequence[Photo]
    lines: Sequence[tuple[str, str]]
    """What is named and its value: label, predicted, confidence."""
    filters: str = ""
    """What the gallery's filter searches."""
    text: str = ""
    """A sentence under the photographs."""


@dataclass(frozen=True)
class Gallery:
    kind: ClassVar[str] = "gallery"
    id: str
    title: str
    how_to_read: str
    cards: Sequence[Card]
    note: str
    """How many there are, and how many of them are shown."""
    left_out: str = ""
    """Why there are no photographs, when there are none."""
    is_wide: bool = False
    """Each card holds photographs side by side."""


@dataclass(frozen=True)
class Criterion:
    """One line of a gate."""

    name: str
    answer: Literal["pass", "fail", "cannot tell"]
    text: str
    n: str = ""


@dataclass(frozen=True)
class Decision:
    """The answer of a gate, and the criteria it was read from."""

    kind: ClassVar[str] = "decision"
    answer: Literal["pass", "fail", "cannot tell"]
    sentence: str
    criteria: Sequence[Criterion]
    note: str = ""


@dataclass(frozen=True)
class Definitions:
    kind: ClassVar[str] = "definitions"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: Sequence["Block"]


Block = Table | Heat | Figure | DotPlot | Facts | Text | Listing | Gallery | Decision | Definitions | Folded


@dataclass(frozen=True)
class Section:
    """One heading of the page and of its menu."""

    id: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""
    menu: str = ""
    """A shorter title for the menu."""
    is_missing: bool = False
    """There is no data for it: the section is the one line that says what to supply."""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    eyebrow: str
    title: str
    verdict: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    is_synthetic: bool = False
    """Drawn photographs: the page is stamped and says so."""
    tiles: Sequence[Fact] = field(default=())
    footer: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What the page was drawn from, for a machine: it can be drawn again and compared."""


def missing(id: str, title: str, supply: str, *, menu: str = "") -> Section:
    """A section without data: one line that says what to supply."""
    return Section(id, title, (Text(supply, style="missing"),), menu=menu, is_missing=True)
