"""`ddeval data`: manifests. Make one, look at it, split it, take a patient out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddeval.cli import FINDINGS, OK, console
from ddeval.errors import InputError
from ddeval.project import find_project, image_roots, output_folder, the_project

if TYPE_CHECKING:
    import pandas as pd

    from ddeval.data.fields import FeatureSchema
    from ddeval.data.mapped import Mapped
    from ddeval.data.overview import Overview
    from ddeval.project import Project

app = typer.Typer(
    help="Manifests: make one, look at it, split it, take a patient out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

MOST = 20
"""Rows of a list that are printed; --json prints all."""
FRACTIONS = "train=0.7,val=0.1,test=0.2"
Manifest = Annotated[
    Path | None, typer.Argument(metavar="[MANIFEST]", help="CSV or Parquet [the project's].")
]
Images = Annotated[
    list[Path] | None,
    typer.Option("--images", help="Folder images may lie in [the project's]; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that holds something else.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the splits.")]


@app.command("import")
def import_(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="ham10000, scin, imagefolder, …, or mapping.")],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the published files; for mapping, its file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Manifest to write, .csv or .parquet [the project's, or manifest.csv]."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help=f"Share of images by split, such as {FRACTIONS} [none].")
    ] = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Make a manifest of a published data set, or of your tables.

    Example: ddeval data import ham10000 HAM10000 --out manifest.csv --split train=0.7,val=0.1,test=0.2
    """
    from ddeval import io
    from ddeval.data.importers import IMPORTERS

    name = kind.replace("-", "_").lower()
    project = find_project()
    schema = None
    if name == "mapping":
        frame = _by_mapping(folder, project)
        schema = _own_schema(folder, project)
        folder = folder.parent
    elif name in IMPORTERS:
        if not folder.is_dir():
            raise InputError("DIR", f"{folder}, no such folder", expected="a folder", todo="Check the path.")
        frame = IMPORTERS[name](folder)
    else:
        kinds = f"one of {', '.join(IMPORTERS)}, mapping"
        raise InputError("KIND", kind, expected=kinds, todo="For any other table: ddeval init DATA.")
    if out is None:
        out = project.manifest if project and project.manifest else Path("manifest.csv")
    if split:
        frame = frame.assign(split=_dealt(frame, split, seed))
    written = _written(out, frame, force=force, dry_run=dry_run)
    if schema and not dry_run:
        io.write_json(schema[0], schema[1].to_dict())
        console.note(f"questionnaire {schema[0]}: {schema[1].width} encoded columns, as the mapping says")
    is_projects = project is not None and project.manifest == out
    is_beside = is_projects or folder.resolve() == out.parent.resolve()
    roots = "" if is_beside or "image" not in frame.columns else f" --images {folder}"
    next_ = "ddeval data check" if is_projects else f"ddeval data check {out}{roots}"
    _tell(frame, out, written=written, as_json=as_json, next_=next_)


def _by_mapping(path: Path, project: "Project | None") -> "pd.DataFrame":
    from ddeval import tables
    from ddeval.data.manifest import manifest_problems, with_group
    from ddeval.data.mapped import mapped_manifest
    from ddeval.data.mapping import read_mapping

    words = project.split_words if project else {}
    frame = mapped_manifest(read_mapping(path), path.parent, splits=words)
    tables.refuse(manifest_problems(frame), where=str(path), todo="Correct the table or the mapping.")
    return with_group(frame)


def _own_schema(path: Path, project: "Project | None") -> "tuple[Path, FeatureSchema] | None":
    """The project's questionnaire file and what its mapping makes of it, where they differ.

    None for another mapping than the project's, and for a questionnaire of a name of its own: a mapping
    did not make that one.
    """
    from ddeval.data.fields import read_schema
    from ddeval.data.mapping import feature_schema, read_mapping
    from ddeval.io import place

    if project is None or not (project.mapping and project.settings.feature_schema):
        return None
    target = place(project.location(project.settings.feature_schema))
    if place(path).resolve() != project.mapping.resolve() or "://" in project.settings.feature_schema:
        return None
    made = feature_schema(read_mapping(path))
    held = read_schema(target) if target.is_file() else None
    is_ours = held is None or (held.name == made.name and held != made)
    return (target, made) if is_ours else None


@app.command()
def check(
    manifest: Annotated[
        Path | None,
        typer.Argument(metavar="[MANIFEST]", help="CSV or Parquet, or a mapping.yaml [the project's both]."),
    ] = None,
    images: Images = None,
    classes: Annotated[Path | None, typer.Option(help="labels.txt of the model: one class a line.")] = None,
    schema: Annotated[
        Path | None, typer.Option(help="feature_schema.json to read the answers by [the project's].")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Config name or artefact folder: its questionnaire beside this one.")
    ] = None,
    conditions: Annotated[
        Path | None, typer.Option(help="conditions.yaml to find diagnoses without a group [the project's].")
    ] = None,
    hash_files: Annotated[
        bool, typer.Option("--hash", help="Read every image file, to find the same one twice.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What was understood, what was not, and what a reader must know.

    Exit code 1 where something was found.

    Example: ddeval data check manifest.csv --images photos --checkpoint gen2a_medsiglip
    """
    from ddeval.data.conditions import read_conditions
    from ddeval.data.fields import read_schema
    from ddeval.data.overview import manifest_overview
    from ddeval.io import local, place, read_lines

    project = find_project()
    mapping, path = _to_check(manifest, project)
    mapped, own = _mapped(mapping, project) if mapping else (None, None)
    if schema is None and project and project.settings.feature_schema:
        named = Path(project.location(project.settings.feature_schema))
        schema = named if named.is_file() else None
    own = read_schema(schema) if schema else own
    if conditions is None and project and project.settings.conditions:
        conditions = place(project.location(project.settings.conditions))
    wanted = _checkpoint_schema(checkpoint) if checkpoint else None
    found = None
    if path is not None:
        with console.progress("reading images", _n_rows(path) if hash_files else 0) as tick:
            found = manifest_overview(
                path,
                image_roots=image_roots(images, manifest),
                class_names=read_lines(classes) if classes else None,
                schema=wanted or own,
                conditions=read_conditions(local(conditions)) if conditions else None,
                hash_files=hash_files,
                tick=tick,
            )
    difference = own.difference(wanted) if own and wanted else None
    if as_json:
        parts: dict[str, Any] = dict(found.to_dict()) if found else {}
        parts |= {"mapping": mapped.to_dict()} if mapped else {}
        if difference is not None and own and wanted:
            rows = difference.to_dict("records")
            parts["checkpoint"] = {"width": own.width, "checkpoint_width": wanted.width, "differences": rows}
        console.say_json(parts)
    else:
        if mapped and mapping:
            _say_mapped(mapped, mapping)
        if found:
            _say_overview(found)
        if difference is not None and own and wanted:
            _say_difference(difference, own.width, wanted.width)
        if mapped and mapping and not found:
            console.say(f"next     {_after(mapped, mapping)}")
    has_findings = (found is not None and found.has_findings) or (mapped is not None and mapped.has_findings)
    is_different = difference is not None and not difference.empty
    raise typer.Exit(FINDINGS if has_findings or is_different else OK)


def _to_check(given: Path | None, project: "Project | None") -> tuple[Path | None, Path | None]:
    """The mapping and the manifest to look at; of a project that has no manifest yet, the mapping alone."""
    from ddeval.io import local

    if given is not None:
        return (given, None) if given.suffix in (".yaml", ".yml") else (None, given)
    project = project or the_project()
    mapping = project.mapping
    if mapping and not (project.manifest and local(project.manifest, missing_ok=True).is_file()):
        return mapping, None
    return mapping, _named(None)


def _mapped(path: Path, project: "Project | None") -> "tuple[Mapped, FeatureSchema]":
    from ddeval.data.mapped import apply_mapping
    from ddeval.data.mapping import feature_schema, read_mapping

    mapping = read_mapping(path)
    words = project.split_words if project else {}
    return apply_mapping(mapping, path.parent, splits=words), feature_schema(mapping)


def _checkpoint_schema(spec: str) -> "FeatureSchema":
    """The questionnaire of a checkpoint: its own, or its adapter's; no weights are read."""
    from ddeval.config import artefact_location, find_config, read_config
    from ddeval.data.fields import FeatureSchema, read_schema
    from ddeval.io import local, place, there

    folder = place(spec)
    if not folder.is_dir() and "://" not in spec:
        config = find_config(spec)
        if config is None:
            raise InputError(
                "--checkpoint", spec, expected="a config name or artefact folder", todo="Check the name."
            )
        folder = place(artefact_location(read_config(config)))
    files = [folder / name for name in ("config.json", "labels.txt", "feature_schema.json", "adapter.yaml")]
    if not any(there(files).values()):
        raise InputError(
            "--checkpoint",
            f"{folder}, no such folder here",
            expected="its artefact folder",
            todo="Set $DDEVAL_ARTEFACTS to the folder that holds it.",
        )
    project = find_project()
    adapters = [local(files[3], missing_ok=True), *([project.folder / files[3].name] if project else [])]
    adapter = next((path for path in adapters if path.is_file()), None)
    own = local(files[2], missing_ok=True)
    if adapter is not None and '"format": "ddeval/' not in _text_of(local(files[0], missing_ok=True)):
        return _adapted_schema(adapter)
    return read_schema(own) if own.is_file() else FeatureSchema(())


def _adapted_schema(adapter: Path) -> "FeatureSchema":
    """The schema in our words that an adapter names; an InputError where their code encodes the answers."""
    from ddeval.config import config_file, read_yaml
    from ddeval.data.fields import FeatureSchema, read_schema

    said = read_yaml(adapter)
    model = said.get("model") if isinstance(said, dict) else None
    if isinstance(said, dict) and said.get("features"):
        raise InputError(
            f"{adapter} features", f"{said['features']}, code of yours that encodes the answers",
            expected="a schema in our words to compare with", todo="Leave --checkpoint out; score tells.",
        )  # fmt: skip
    name = model.get("feature_schema") if isinstance(model, dict) else None
    where = f"{adapter} model.feature_schema"
    return read_schema(config_file(name, beside=adapter, where=where)) if name else FeatureSchema(())


def _text_of(path: Path) -> str:
    from ddeval.io import read_text

    return read_text(path) if path.is_file() else ""


def _say_mapped(mapped: "Mapped", path: Path) -> None:
    console.say(f"{path}  ·  {mapped.n_rows:,} rows, {len(mapped.frame):,} images")
    if mapped.n_unjoined:
        console.say(f"{mapped.n_unjoined:,} rows have none in another table: what it tells is unknown")
    cells = []
    for row in mapped.fields.to_dict("records"):
        source = str(row["source"])
        shown = source if len(source) <= 40 else source[:39] + "…"
        share = f"{100 * row['n_unknown'] / max(mapped.n_rows, 1):.1f} %"
        counts = [f"{row['n_known']:,}", share, f"{row['n_not_understood']:,}"]
        cells.append([str(row["target"]), shown, str(row["kind"]), *counts])
    header = ["becomes", "from", "kind", "known", "unknown", "not understood"]
    console.say("\n" + console.table(cells, header=header))
    for title, frame in (
        ("words not understood", mapped.not_understood),
        ("diagnoses without a class", mapped.without_class),
    ):
        _say_frame(title, frame)
    if mapped.unused:
        console.say(f"\n{len(mapped.unused)} columns neither used nor ignored: {', '.join(mapped.unused)}")
    console.say("")


def _after(mapped: "Mapped", path: Path) -> str:
    """What to do once the mapping was looked at: an import stops only at words not understood."""
    deal = "" if "split" in mapped.frame.columns else " --split train=0.6,val=0.1,calibration=0.1,test=0.2"
    make = f"ddeval data import mapping {path}{deal}"
    if not mapped.has_findings:
        return make
    return f"edit {path}, ddeval data check" + ("" if len(mapped.not_understood) else f"   ·   {make}")


def _say_difference(difference: "pd.DataFrame", width: int, wanted: int) -> None:
    console.say(f"\nencoded width {width}, the checkpoint's {wanted}")
    _say_frame("fields make the difference", difference)


def _say_frame(title: str, frame: "pd.DataFrame") -> None:
    if not frame.empty:
        console.say(f"\n{len(frame)} {title}")
        cells = [[str(cell) for cell in row] for row in frame.head(MOST).itertuples(index=False)]
        console.say(console.table(cells, header=[str(name) for name in frame.columns]))
        if len(frame) > MOST:
            console.say(f"… and {len(frame) - MOST} more: --json lists all")


@app.command()
def split(
    manifest: Manifest = None,
    out: Annotated[Path | None, typer.Option(help="Manifest to write [the same file].")] = None,
    fractions: Annotated[str, typer.Option(help="Share of images by split.")] = FRACTIONS,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace splits that are already given.")] = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Deal whole patients into splits, each class shared out alike.

    Example: ddeval data split manifest.csv --fractions train=0.7,val=0.1,calibration=0.05,test=0.15
    """
    from ddeval.data.manifest import read_manifest

    path = _named(manifest)
    frame = read_manifest(path, allow_leaks=True)
    n_given = int(frame["split"].notna().sum()) if "split" in frame.columns else 0
    if n_given and not force:
        raise InputError(
            str(path),
            f"{n_given} images that have a split",
            expected="a manifest without splits",
            todo="A number on a test split holds only for that split; --force deals all images anew.",
        )
    frame = frame.assign(split=_dealt(frame, fractions, seed))
    written = _written(out or path, frame, force=True, dry_run=dry_run)
    _tell(frame, out or path, written=written, as_json=as_json, next_=f"ddeval data check {out or path}")


@app.command()
def retire(
    split_: Annotated[str, typer.Argument(metavar="SPLIT", help="test, calibration or val.")],
    out: Annotated[Path, typer.Option(help="New manifest; the old one stays as it is.")],
    reason: Annotated[str, typer.Option(help="Why it may not judge any more; for the ledger.")],
    by: Annotated[str | None, typer.Option(help="Who decided it [the user].")] = None,
    manifest: Annotated[Path | None, typer.Option(help="CSV or Parquet [the project's].")] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(help="Overlay files of the split and of train: together the next labels of train."),
    ] = None,
    labels_folder: Annotated[Path, typer.Option(help="Where the new overlay goes.")] = Path("labels"),
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Give a judging split up for training; the ledger says so.

    From then on scoring the old split says that it was retired. Freeze train first: a later freeze of train
    holds the readings of train alone.

    Example: ddeval data retire test --out new.csv --reason "replaced in 2026" --labels labels/test-v3.parquet
    """
    import getpass

    from ddeval.data.overlay import read_overlay
    from ddeval.train.retirement import retire as retired

    found = retired(
        _named(manifest),
        split_,
        out,
        reason=reason,
        by=by or getpass.getuser(),
        overlays=[read_overlay(path) for path in labels or []],
        folder=labels_folder,
        dry_run=dry_run,
    )
    if as_json:
        console.say_json(
            {**found._asdict(), "manifest": str(out), "overlay": str(found.overlay or "") or None}
        )
        return
    verb = "would be" if dry_run else "are"
    console.say(
        f"{found.n_images:,} images of {found.n_groups:,} groups {verb} training images in {out}"
        + (f"; {found.n_vetted:,} vetted labels in {found.overlay}" if found.overlay else "")
    )
    flag = f" --labels {found.overlay}" if found.overlay else ""
    console.say(f"next     ddeval data check {out}   ·   ddeval train CONFIG --data {out}{flag}")


@app.command()
def withdraw(
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help="patient_id as the manifest writes it.")],
    manifest: Annotated[Path | None, typer.Option(help="CSV or Parquet [the project's].")] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of runs [the project's, or runs].")] = None,
    reports: Annotated[
        Path | None, typer.Option(help="Folder of reports [the project's, or reports].")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Readings [the project's, else readings.db].")] = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Take a patient out for good, and name what still holds them.

    A tombstone is written, the rows of the manifest and thumbnails are removed, and no reader is shown the
    patient's cases any more. Exit code 1 where runs or reports remain that hold the patient.

    Example: ddeval data withdraw P-0123 --dry-run
    """
    import datetime as dt

    from ddeval.data.manifest import withdraw_patient

    project = find_project()
    held = _named(manifest)
    n_taken = 0 if dry_run else _taken_out(held, patient, store)
    found = withdraw_patient(
        held,
        patient,
        runs=runs or output_folder("runs"),
        reports=reports or output_folder("reports"),
        image_roots=project.image_roots if project else (),
        shown=project.shown_photographs if project else None,
        on=dt.datetime.now(dt.UTC).date(),
        dry_run=dry_run,
    )
    if as_json:
        console.say_json(vars(found))
    else:
        done = "would be" if dry_run else "were"
        console.say(f"{found.n_images} images of the patient {done} taken out of the manifest")
        console.say(f"{len(found.purged)} thumbnails and {found.n_copies} other copies {done} deleted")
        if n_taken:
            console.say(
                f"{n_taken} cases were taken from the readers: freeze again what is frozen, and of a run "
                "whose queue was read keep the audit folder, which ddeval truth needs"
            )
        for title, paths in (
            ("run that still holds them (delete it, or score again)", found.runs),
            ("report that still holds them (delete it, or write it again)", found.reports),
            ("photograph to be deleted where it is kept", found.files),
        ):
            for path in paths:
                console.say(f"{title}: {path}")
    raise typer.Exit(FINDINGS if found.runs or found.reports else OK)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")] = Path("demo"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Draw the synthetic data set, with planted label errors.

    Example: ddeval data demo demo
    """
    from ddeval.data.demo import make_demo
    from ddeval.data.manifest import read_manifest

    path = make_demo(folder, seed=seed)
    _tell(read_manifest(path), path, written=True, as_json=as_json, next_="ddeval score demo")


def _taken_out(manifest: Path, patient: str, store: str | None) -> int:
    """How many of the patient's cases were taken out of the batches of the store, where there is one."""
    from ddeval.cli.vet import store_url
    from ddeval.data.manifest import read_table, with_cases

    url = store_url(store)
    path = url.removeprefix("sqlite:///")
    if "://" not in path and not Path(path).is_file():
        return 0
    from ddeval.vet.reading import take_out
    from ddeval.vet.store import Store

    rows = read_table(manifest)
    if "patient_id" not in rows.columns:
        return 0  # told by what follows
    cases = with_cases(rows[rows["patient_id"] == patient])["case_id"].unique()
    taken = take_out(Store(url), [str(case) for case in cases], actor="admin", reason="patient withdrew")
    return sum(taken.values())


def _dealt(frame: "pd.DataFrame", fractions: str, seed: int) -> "pd.Series":
    """The splits, or an InputError for fractions that are none."""
    import numpy as np

    from ddeval.data.splits import split_by_group

    try:
        shares = {name.strip(): float(share) for name, share in (p.split("=") for p in fractions.split(","))}
        return split_by_group(frame, shares, rng=np.random.default_rng(seed))
    except ValueError as error:
        raise InputError(
            "--split",
            f"{fractions!r} ({error})",
            expected=f"shares that sum to 1, such as {FRACTIONS}",
            todo="Correct the flag.",
        ) from error


def _written(path: Path, frame: "pd.DataFrame", *, force: bool, dry_run: bool) -> bool:
    """Whether the manifest was written; one that says the same already is left as it is."""
    from ddeval.data.manifest import manifest_sha256, read_manifest, without_withdrawn, write_manifest
    from ddeval.io import local

    frame = without_withdrawn(frame, path)
    if local(path, missing_ok=True).is_file() and not force:
        if manifest_sha256(read_manifest(path, allow_leaks=True)) == manifest_sha256(frame):
            return False
        raise InputError(
            str(path),
            "a manifest that says something else",
            expected="no file",
            todo="Pass --out or --force.",
        )
    if not dry_run:
        write_manifest(path, frame)
    return not dry_run


def _named(manifest: Path | None) -> Path:
    """The manifest of the command line, or of the project."""
    if manifest is not None:
        return manifest
    project = the_project()
    if project.manifest is None:
        raise InputError(
            str(project.folder / "ddeval.yaml"),
            "no `manifest:`",
            expected="the manifest's path",
            todo="Add the line, or pass the manifest.",
        )
    return project.manifest


def _n_rows(path: Path) -> int:
    from ddeval.data.manifest import read_table

    return len(read_table(path))


def _tell(frame: "pd.DataFrame", path: Path, *, written: bool, as_json: bool, next_: str) -> None:
    from ddeval.data.overview import counts

    found = counts(frame)
    if as_json:
        console.say_json({"manifest": str(path), "written": written, **found})
        return
    _say_counts(found)
    console.say(f"\nmanifest {path}{'' if written else '  (left as it is)'}\nnext     {next_}")


def _say_counts(found: Mapping[str, Any]) -> None:
    units = ", ".join(f"{n:,} by {unit}" for unit, n in found["group_units"].items() if unit)
    console.say(f"{found['n_images']:,} images, {found['n_groups']:,} independent groups (images: {units})")
    for what in ("image", "label"):
        if found[f"n_without_{what}"]:
            console.say(
                f"{found[f'n_without_{what}']:,} without {'a file' if what == 'image' else 'a label'}"
            )
    if found["splits"]:
        console.say("splits   " + ", ".join(f"{name} {n:,}" for name, n in found["splits"].items()))
    shown = list(found["classes"].items())
    more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
    if shown:
        console.say(f"labels   {', '.join(f'{name} {n:,}' for name, n in shown[:12])}{more}")


def _say_overview(found: "Overview") -> None:
    console.say(f"{found.path}  ·  {found.sha256[:12]}")
    _say_counts(found.counts)
    if not found.fields.empty:
        console.say(f"\nquestionnaire, {found.width} encoded columns")
        cells = [[str(cell) for cell in row] for row in found.fields.itertuples(index=False)]
        console.say(console.table(cells, header=[str(name) for name in found.fields.columns]))
    _say_frame("answers not understood", found.not_understood)
    _say_frame("diagnoses without a group: no decision number counts them", found.diagnoses)
    _say_frame("bad cells", found.problems)
    console.say("")
    marks = {"passed": "ok", "failed": "FOUND", "not_applicable": "n/a"}
    for one in found.checks:
        console.say(
            f"{one.code}  {marks[one.status]:5}  {one.title}{': ' + one.message if one.message else ''}"
        )
