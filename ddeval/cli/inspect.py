"""`ddeval inspect`: what a checkpoint holds, what was understood, and the first thing that fits not."""

from dataclasses import asdict
from typing import Annotated

import typer

from ddeval.cli import console


def inspect(
    checkpoint: Annotated[str, typer.Argument(help="Config name, artefact folder or Hugging Face folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, nothing else.")] = False,
) -> None:
    """Say what was understood of a checkpoint; exit 1 if something does not fit.

    Example: ddeval inspect artefacts/gen2a_medsiglip
    """
    from ddeval.models.inspect import inspect_checkpoint

    found = inspect_checkpoint(checkpoint)
    facts = asdict(found)
    groups = facts.pop("groups").to_dict("records")
    draft = facts.pop("adapter") or ""
    if as_json:
        console.say_json(facts | {"groups": groups, "adapter": draft or None})
        raise typer.Exit(1 if found.problem else 0)
    for name, value in facts.items():
        if name != "problem" and value not in (None, "", [], {}, ()):
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            console.say(f"{name.replace('_', ' '):16} {text}")
    if groups:
        rows = [[str(row[key]) for key in ("group", "n_tensors", "n_parameters", "shape")] for row in groups]
        console.say(console.table(rows, header=["parameters", "tensors", "numbers", "first shape"]))
    if draft:
        console.say(f"\n{draft}")
    console.say(f"\nfits not  {found.problem}" if found.problem else f"\nfits      ddeval score {checkpoint}")
    raise typer.Exit(1 if found.problem else 0)
