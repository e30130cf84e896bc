"""Mapping: how should tables that ddeval did not make become the manifest?

`mapping.yaml` says it column by column; no code is written. This module knows what may stand in the file;
`ddeval.data.mapped` does what it says, `ddeval.data.proposal` writes a first one for a given table.
"""

from collections.abc import Mapping as Map
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, field_validator, model_validator
from pydantic import Field as Key

from ddeval import tables
from ddeval.config import Section, parse_config, read_yaml
from ddeval.data.fields import SEPARATOR, FeatureSchema, Field, FieldKind, clean

Words = tuple[str, ...]
TICKED, UNTICKED = ("1", "yes", "true", "x"), ("0", "no", "false")
COLUMNS = tuple(c for c in tables.MANIFEST.names if c not in ("image_id", "image", "label", "raw_label"))
"""Columns of the manifest that `columns:` may fill; the others have sections of their own."""


def _words_once(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Words are told apart by more than case and spaces, as they are when a cell is read."""
    seen: dict[str, str] = {}
    for word in value or {}:
        other = seen.setdefault(clean(word), word)
        if other != word and (value or {})[other] != (value or {})[word]:
            raise ValueError(f"{other!r} and {word!r} are one word (case does not matter) with two meanings")
    return value


Meanings = Annotated[dict[str, str | None], AfterValidator(_words_once)]
"""Word of a table -> ours; null is unknown."""


class TableSpec(Section):
    """One table. The first gives the rows; each other one is joined to it."""

    path: str
    """CSV or Parquet, from the folder of the mapping."""
    separator: str | None = None
    encoding: str | None = None
    """Such as cp1252, where the file is neither UTF-8 nor UTF-16."""
    join: str | None = None
    """Column of both tables, its values unique in this one; for every table but the first."""


class ImageSpec(Section):
    """Where a row's photographs are named."""

    columns: Words = Key(min_length=1)
    """One column, or one a photograph: each named file becomes a row of the manifest."""
    separator: str | None = None
    """Between the files named in one cell."""
    pattern: str = "{}"
    """The path, where `{}` stands for the cell: photos/{}.jpg."""
    id: str | None = None
    """Column of the image ids; else the file's name, or case_id and number where a case has several."""

    @field_validator("pattern")
    @classmethod
    def _has_one_place(cls, value: str) -> str:
        if value.count("{}") != 1:
            raise ValueError("must hold {} once")
        return value


class NumberSpec(Section):
    """A number with a unit."""

    unit: str
    units: dict[str, float] = Key(default_factory=dict)
    """Every other unit it may be in, as multiples of `unit`."""
    decimal: Literal[".", ","] = "."


class ColumnSpec(Section):
    """A column of the manifest from a column of the tables, or from one stated value."""

    column: str | None = None
    value: str | None = None
    """The same in every row."""
    values: Meanings | None = None
    """Word of the table -> ours, null for unknown; where given, no other word is understood."""
    unknown: Words = ()
    strip: bool = False
    """Whether spaces at both ends are taken off."""
    number: NumberSpec | None = None
    """For an age that is written with its unit."""

    @model_validator(mode="after")
    def _one_source(self) -> "ColumnSpec":
        if (self.column is None) == (self.value is None):
            raise ValueError("needs `column`, or `value` for the same in every row")
        return self


class LabelSpec(Section):
    """The diagnosis as given, and the class it belongs to."""

    column: str
    form: Literal["text", "list", "weights"] = "text"
    """text: one diagnosis; list: several, surest first; weights: {diagnosis: weight}, the greatest counts."""
    classes: Meanings | None = None
    """Diagnosis -> class, whatever the case; without it the diagnosis itself is the class."""
    otherwise: str | None = None
    """Class of every diagnosis that `classes` does not name; without it they have none and are listed."""
    unknown: Words = ()
    strip: bool = False


class AnswerSpec(Section):
    """A question: where its answers stand, and how they are to be understood."""

    kind: FieldKind
    column: str | None = None
    form: Literal["text", "separator", "list"] = "text"
    separator: str = SEPARATOR
    """Between the answers of one cell (form: separator)."""
    one_hot: dict[str, str] = Key(default_factory=dict)
    """Column -> answer, for a box a column."""
    ticked: Words = TICKED
    unticked: Words = UNTICKED
    """What a box may hold; an empty one is not ticked, and a row of empty boxes is unanswered."""
    values: Meanings = Key(default_factory=dict)
    """Word of the table -> answer, null for unknown."""
    unknown: Words = ()
    otherwise: Literal["unknown"] | None = None
    """What becomes of an answer that is not understood; without it the import stops."""
    decimal: Literal[".", ","] = "."
    unit_column: str | None = None
    """Number: column that holds the unit of each answer."""

    question: str = ""
    answers: Words = ()
    """What may be answered, in column order; without it, the words of `values` or of the boxes."""
    none: str = ""
    within: dict[str, str] = Key(default_factory=dict)
    unit: str = ""
    units: dict[str, float] = Key(default_factory=dict)
    bare_numbers: bool = True
    low: float = 0.0
    high: float = 1.0
    scale: Literal["linear", "log"] = "linear"
    hide_when_blind: bool = False
    removable: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> "AnswerSpec":
        if (self.column is None) == (not self.one_hot):
            raise ValueError("needs `column`, or `one_hot` for a box a column")
        return self

    def field(self, name: str) -> Field:
        """The question as the questionnaire knows it."""
        words = dict.fromkeys([*self.one_hot.values(), *(v for v in self.values.values() if v)])
        answers = self.answers or tuple(word for word in words if word != self.none)
        if self.kind in ("yes_no", "number"):
            answers = ()
        names = ("question", "none", "within", "unit", "units", "bare_numbers", "low", "high", "scale")
        given = {key: getattr(self, key) for key in (*names, "hide_when_blind", "removable")}
        return Field(name, self.kind, answers=answers, **given)


class Mapping(Section):
    """The whole of `mapping.yaml`."""

    tables: tuple[TableSpec, ...] = Key(min_length=1)
    image: ImageSpec | None = None
    image_id: str | None = None
    """Column of the image ids where no column names a file."""
    columns: dict[str, ColumnSpec] = Key(default_factory=dict)
    label: LabelSpec | None = None
    answers: dict[str, AnswerSpec] = Key(default_factory=dict)
    unknown: Words = ()
    """Words for "not known" in the answers and columns of every table; never in ids."""
    ignore: Words = ()
    """Columns left out on purpose."""

    @field_validator("columns", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, Map):
            return value
        return {name: {"column": spec} if isinstance(spec, str) else spec for name, spec in value.items()}

    @model_validator(mode="after")
    def _fits(self) -> "Mapping":
        strangers = sorted(set(self.columns) - set(COLUMNS))
        if strangers:
            raise ValueError(f"columns may be {', '.join(COLUMNS)}; {strangers[0]!r} is none of them")
        if (self.image is None) == (self.image_id is None):
            raise ValueError("needs `image`, or `image_id` where no photograph is named")
        if any(table.join is None for table in self.tables[1:]) or self.tables[0].join is not None:
            raise ValueError("every table but the first needs `join`")
        for name, spec in self.answers.items():
            spec.field(name)  # a wrong field is refused here, by name
        return self


def feature_schema(mapping: Mapping) -> FeatureSchema:
    """The questionnaire that the mapping's answers make."""
    return FeatureSchema(tuple(spec.field(name) for name, spec in mapping.answers.items()))


def read_mapping(path: Path) -> Mapping:
    """The mapping in a YAML file. Every scalar is text: 001 and no are words, not 1 and false."""
    mapping: Mapping = parse_config(read_yaml(path, only_text=True), Mapping, where=str(path))
    return mapping
