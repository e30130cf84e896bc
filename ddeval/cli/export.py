"""`ddeval export`: a checkpoint as one file for another runtime."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ddeval.cli import console, embedded
from ddeval.errors import InputError


def export(
    checkpoint: Annotated[str, typer.Argument(help="Config name, artefact or Hugging Face folder.")],
    onnx: Annotated[Path, typer.Option(help="The file to write, NAME.onnx.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
) -> None:
    """Write a checkpoint as one ONNX file that `ddeval score` takes, with classes and preprocessing in it.

    Example: ddeval export gen2a_medsiglip --onnx gen2a_medsiglip.onnx
    """
    from ddeval.io import file_sha256
    from ddeval.models.checkpoint import load_checkpoint, locate
    from ddeval.models.onnx import SUFFIX, write_onnx

    if onnx.suffix != SUFFIX:
        raise InputError("--onnx", str(onnx), expected=f"a name that ends in {SUFFIX}", todo="Rename it.")
    spec = str(embedded.ready_demo().artefact) if checkpoint == embedded.NAME else checkpoint
    config = locate(spec)[1]
    loaded = load_checkpoint(spec)
    if config:
        loaded = replace(loaded, name=config.name)
    if dry_run:
        console.note(f"would write {loaded.name} to {onnx}")
        return
    difference = write_onnx(loaded, onnx)
    if as_json:
        console.say_json(
            {"file": str(onnx), "sha256": file_sha256(onnx), "largest_logit_difference": difference}
        )
        return
    console.say(f"{loaded.name} to {onnx}  ·  {onnx.stat().st_size / 1e6:,.1f} MB")
    console.say(f"onnxruntime against torch in fp32: {difference:.1e} of a logit, on four drawn inputs")
    console.say(f"\nnext     ddeval score {onnx} --against {checkpoint} --data MANIFEST")
