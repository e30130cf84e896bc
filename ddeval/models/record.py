"""What a loaded checkpoint is, whatever kind of file or folder it came from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import nn

from ddeval.data.images import Preprocessing
from ddeval.data.questionnaire import Features, FeatureSchema, encode
from ddeval.errors import InputError
from ddeval.io import read_text

Kind = Literal["artefact", "foreign", "classifier", "zero_shot", "onnx"]
Link = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Checkpoint:
    """A network ready to score, and everything needed to feed it and to read its answers."""

    name: str
    kind: Kind
    """artefact (ours), foreign (another package's), classifier (Hugging Face), zero_shot or onnx."""
    module: nn.Module
    """In eval mode, float32, on the CPU; called with normalised pixels (B, 3, S, S) and features (B, D)
    or None, it returns logits (B, K) and image embeddings (B, E), both float32."""
    class_names: tuple[str, ...]
    """The K classes in index order."""
    other_class: str | None
    """The class that means none of the others, as the config or the caller stated it."""
    link: Link
    """What turns logits into probabilities."""
    preprocessing: Preprocessing
    schema: FeatureSchema | None
    """Of the questionnaire; None for a model of photographs alone."""
    sha256: str
    """Of every file that shapes the logits."""
    settings: dict[str, Any]
    """Everything else the checkpoint's config says, unknown keys too; kept with every run."""
    folder: Path | None = None
    """Where it was read from."""
    reported: dict[str, Any] = field(default_factory=dict)
    """Numbers its makers wrote beside it (metrics.json); score says whether it reproduces them."""
    encode: Callable[[pd.DataFrame], Features] | None = None
    """The user's own encoder of the answers, in place of `schema`."""

    @property
    def n_parameters(self) -> int:
        """Numbers the network has learnt; an ONNX file says it, since its weights are not seen here."""
        stated = getattr(self.module, "n_parameters", None)
        return stated if isinstance(stated, int) else sum(p.numel() for p in self.module.parameters())

    def features(self, rows: pd.DataFrame, *, where: str = "questionnaire") -> Features | None:
        """The encoded answers (N, D) of the images in `rows`; None for a model of photographs alone."""
        if self.encode is not None:
            return self.encode(rows)
        return encode(rows, self.schema, where=where) if self.schema is not None else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names of a labels.txt: one a line, in index order.

    Spaces around a name and empty lines at the end do not count; an empty line between names and a
    name given twice are InputErrors.
    """
    names = [line.strip() for line in read_text(path).rstrip().split("\n")]
    for number, name in enumerate(names, start=1):
        if not name:
            raise InputError(
                f"{path} line {number}", "an empty line", expected="a class name", todo="Remove the line."
            )
        if names.index(name) < number - 1:
            raise InputError(
                f"{path} line {number}",
                f"{name!r}, which is also line {names.index(name) + 1}",
                expected="each class once",
                todo="Correct the list; its order must stay that of the model's outputs.",
            )
    return tuple(names)


def check_same_classes(
    names: tuple[str, ...], other: tuple[str, ...], *, where: str, other_where: str
) -> None:
    """An InputError unless both lists hold the same names in the same order.

    Equal counts prove nothing: a reordered list scores every image under another class's name.
    """
    if names == other:
        return
    strange = sorted(set(names) ^ set(other))
    if strange:
        holder = where if strange[0] in names else other_where
        found = f"{strange[0]!r} only in {holder} ({len(names)} names here, {len(other)} there)"
    else:
        index = next(i for i, (a, b) in enumerate(zip(names, other, strict=True)) if a != b)
        found = f"{names[index]!r} at index {index}, where {other_where} has {other[index]!r}"
    raise InputError(
        where,
        found,
        expected=f"the class names of {other_where} in the same order",
        todo="Put right the list that does not describe the outputs of the weights.",
    )


def check_other_class(other_class: str | None, class_names: tuple[str, ...], *, where: str) -> None:
    """An InputError for an `other_class` that is not one of the classes."""
    if other_class is not None and other_class not in class_names:
        raise InputError(
            where,
            f"other_class {other_class!r}",
            expected=f"one of {', '.join(class_names)}",
            todo="Correct the name, or leave it out for a model without such a class.",
        )
