"""What several commands share: what is at stake, where the model will serve, which process speaks."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ddeval.errors import InputError

Conditions = Annotated[
    Path | None,
    typer.Option(help="conditions.yaml: which diagnosis is malignant or urgent [the project's]."),
]
Prevalence = Annotated[
    list[str] | None,
    typer.Option(help="Where the model will serve, malignant=0.02; may be repeated [that of the split]."),
]


def by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_shown() -> bool:
    """Whether this process is the one that speaks: of several that torchrun started, the first."""
    return not by_torchrun() or os.environ.get("RANK", "0") == "0"


def today() -> str:
    """The date a page is drawn on, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def shares(given: list[str] | None) -> dict[str, float]:
    """`malignant=0.02` and the like as a mapping; an InputError for anything else."""
    found = {}
    for text in given or []:
        group, _, share = text.partition("=")
        try:
            found[group.strip()] = float(share)
        except ValueError:
            raise InputError(
                "--prevalence", repr(text), expected="a group and a share, malignant=0.02", todo="Correct it."
            ) from None
    return found
