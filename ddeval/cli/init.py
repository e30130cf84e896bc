"""`ddeval init`: a project for tables that ddeval did not make."""

from pathlib import Path
from typing import Annotated

import typer

from ddeval.cli import console
from ddeval.errors import InputError

MAPPING_FILE = "mapping.yaml"
PROJECT = """\
# ddeval project. Paths are relative to this file; a command's flag overrides them.
manifest: manifest.csv
mapping: {mapping}
# Folders photographs may lie in, and nowhere else.
images: [{images}]
# Your words for the splits, where they are others than ours: {{val: [validation, dev]}}
splits: {{}}
# Folders or URIs in which a model's name is looked up.
artefacts: [artefacts]
runs: runs
reports: reports
# Where the readings of the vetting app are kept.
store: sqlite:///readings.db
# What each diagnosis means; null takes the one that comes with ddeval.
conditions: null
# The questionnaire of models trained here; a checkpoint brings its own.
feature_schema: feature_schema.json
"""


def init(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA…", help="Your tables, CSV or Parquet, here or s3://…; the first gives the rows."
        ),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photographs [that of the first table].")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="labels.txt of your model: diagnoses of these names are its classes.")
    ] = None,
    conditions: Annotated[
        Path | None,
        typer.Option(help="conditions.yaml: which diagnosis is of which class [with --classes, ours]."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
) -> None:
    """Write ddeval.yaml and a mapping of your tables to edit.

    Example: ddeval init cases.csv labels.csv --images photos --classes labels.txt
    """
    from ddeval.config import config_file, parse_config
    from ddeval.data.conditions import read_conditions
    from ddeval.data.mapping import Mapping, feature_schema
    from ddeval.data.proposal import as_yaml, path_from, propose
    from ddeval.io import in_bucket, local, place, read_lines, write_json, write_text
    from ddeval.project import FILE, write_project

    folder = Path.cwd()
    here = [name for name in (FILE, MAPPING_FILE, "feature_schema.json") if (folder / name).exists()]
    if here and not dry_run:
        raise InputError(
            str(folder / here[0]),
            "a project that is already there",
            expected="none",
            todo="Edit or remove it.",
        )
    if images and not in_bucket(place(images)) and not images.is_dir():
        raise InputError(
            "--images",
            f"{images}, no such folder",
            expected="the photographs' folder",
            todo="Check the path.",
        )
    names = read_lines(classes) if classes else None
    if conditions is None and names:
        conditions = config_file("conditions.yaml", where="--conditions")
    meant = read_conditions(local(conditions)) if conditions else None
    found = propose(data, folder=folder, images=images, classes=names, conditions=meant)
    text = as_yaml(found)
    schema = feature_schema(parse_config(found.mapping, Mapping, where=MAPPING_FILE))
    root = path_from(folder, images or data[0].parent)
    if not dry_run:
        write_text(folder / MAPPING_FILE, text)
        write_json(folder / "feature_schema.json", schema.to_dict())
        write_project(folder, PROJECT.format(mapping=MAPPING_FILE, images=root))
    if as_json:
        console.say_json({"mapping": found.mapping, "notes": found.notes, "edits": found.edits})
        return
    for line in found.notes:
        console.note(line)
    for line in found.edits:
        console.say(f"EDIT {line}")
    n_columns = len(found.mapping["columns"]) + len(found.mapping["answers"])
    console.say(f"\n{n_columns} columns and questions ({schema.width} encoded), {len(found.edits)} to edit")
    console.say(f"project  {FILE}, {MAPPING_FILE}, feature_schema.json{' (not written)' if dry_run else ''}")
    console.say(
        "next     edit mapping.yaml   ·   ddeval data check   ·   ddeval data import mapping mapping.yaml"
    )
