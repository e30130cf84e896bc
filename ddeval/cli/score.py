"""`ddeval score`: a checkpoint, a predictions file or a run in; predictions, numbers and a report out."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ddeval.cli import COMMANDS, console, embedded
from ddeval.cli.options import Conditions, Prevalence, by_torchrun, shares, today
from ddeval.errors import InputError
from ddeval.project import find_project, image_roots, output_folder

if TYPE_CHECKING:
    from ddeval.models.record import Checkpoint
    from ddeval.score.file_run import FileJob
    from ddeval.score.run import Job


def score(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|RUN",
            help="Config name, artefact or Hugging Face folder, hub id, ONNX or predictions file, or a run.",
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="Manifest [of the config, or $DDEVAL_MANIFEST].")] = None,
    split: Annotated[str, typer.Option(help="Split to judge, or all.")] = "test",
    labels: Annotated[
        str | None, typer.Option(help="Label overlay: v0 (the manifest's), v1, a file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder [runs/CHECKPOINT-SPLIT-HASH].")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML file [reports/DATE-RUN.html].")] = None,
    photos: Annotated[
        bool, typer.Option("--photos", help="Put patients' photographs in the report.")
    ] = False,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder images may lie in [the manifest's]; may be repeated.")
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=0, help="Images a batch; 0 is 64; 8 for a large network on a CPU, 128 on a large GPU."
        ),
    ] = 0,
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Number format; auto asks the GPU.")
    ] = "auto",
    precision: Annotated[
        Literal["native", "fp8"], typer.Option(help="fp8: faster on Hopper, and a little less accurate.")
    ] = "native",
    fast_decode: Annotated[
        bool, typer.Option("--fast-decode", help="Shrink large JPEGs while decoding; pixels differ a little.")
    ] = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the model runs.")] = "auto",
    against: Annotated[
        str | None, typer.Option(help="ONNX file: the checkpoint it was made from, answers compared.")
    ] = None,
    tta: Annotated[
        Literal["none", "hflip", "multicrop"],
        typer.Option(
            help="hflip: mean with the mirror image; multicrop: of corners and middle, 5 times the time."
        ),
    ] = "none",
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode; 0 is one a core.")] = 0,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: a task a shard on a Ray cluster that is there.")
    ] = "local",
    shard: Annotated[
        str | None,
        typer.Option(help="i/n: score every n-th shard from the i-th, 0 to n-1 [torchrun's rank]."),
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Predictions file: column of the image ids.")] = None,
    class_columns: Annotated[
        str | None, typer.Option(help="Predictions file: a,b or class=column,... [all columns of numbers].")
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option(
            help="a,b,c or a labels.txt: what a zero-shot is asked; of an array's columns, in order."
        ),
    ] = None,
    values: Annotated[
        Literal["pred_probs", "logits"], typer.Option(help="Predictions file: what the class columns hold.")
    ] = "pred_probs",
    link: Annotated[
        Literal["softmax", "sigmoid"], typer.Option(help="Predictions file: sigmoid rows need not sum to 1.")
    ] = "softmax",
    other_class: Annotated[str | None, typer.Option(help="The class that is none of the others.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images between two points of resumption.")] = 1024,
    calibrators: Annotated[
        Literal["quick", "all", "none"], typer.Option(help="Calibrators compared; all may take minutes.")
    ] = "quick",
    conditions: Conditions = None,
    prevalence: Prevalence = None,
    abstain: Annotated[
        Path | None, typer.Option(help="File of ddeval abstain: outcomes told under its rule too.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intervals.")] = 0,
    n_resamples: Annotated[int, typer.Option(min=1, help="Bootstrap draws of the intervals.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, nothing else.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
) -> None:
    """Checkpoint and manifest in; predictions, numbers and a report out.

    Example: ddeval score gen2a_medsiglip --data manifest.csv
    """
    from ddeval.io import local, place
    from ddeval.score.deferral import read_rule
    from ddeval.score.evaluate import evaluate
    from ddeval.score.folder import is_run, read_run
    from ddeval.score.foreign import is_predictions_file
    from ddeval.score.parity import is_cheaper, parity_with
    from ddeval.score.trials import reproduced

    if against is not None and not checkpoint.endswith(".onnx"):
        raise InputError("--against", checkpoint, expected="an ONNX file to score", todo="Leave it out.")
    if abstain is not None:
        read_rule(abstain)  # before a model runs for an hour
    path = place(checkpoint)
    run: Path | None
    job: Job | None = None
    reference: Checkpoint | None = None
    if is_run(path):
        run = _finished(path, dry_run=dry_run)
    elif is_predictions_file(path):
        run = _file_run(
            local(path), data, out, dry_run=dry_run, split=split, images=images or [], id_column=id_column,
            class_columns=_listed(class_columns), class_names=_names(class_names), values=values, link=link,
            other_class=other_class, labels=labels,
        )  # fmt: skip
    else:
        run, job, reference = _model_run(
            checkpoint, data, out, labels=labels, dry_run=dry_run, split=split, images=images or [],
            device=device, dtype=dtype, precision=precision, fast_decode=fast_decode,
            batch_size=batch_size, tta=tta, shard_size=shard_size, shard=shard, workers=workers,
            engine=engine, class_names=_names(class_names), other_class=other_class, against=against,
        )  # fmt: skip
    if run is None:
        return
    result = evaluate(
        run,
        labels,
        manifest=data,
        seed=seed,
        n_resamples=n_resamples,
        calibrators=calibrators,
        conditions=conditions,
        prevalence=shares(prevalence),
        abstain=abstain,
        note=console.note,
    )
    parity = read_run(run).get("parity")
    if job is not None and reference is not None and is_cheaper(job):
        parity = parity_with(run, job, reference, workers=workers)
    found = reproduced(run, result, job=job, workers=workers)
    page = _reported(run, report, out, labels=result["labels"], photos=photos)
    if as_json:
        more = {"reproduction": found.to_dict() if found else None, "parity": parity}
        console.say_json({**result, **more, "report": str(page)})
        return
    console.say(console.headline(result))
    if parity:
        console.say(console.parity(parity))
    if found:
        console.say(console.reproduced(found.to_dict()))
    console.say(f"\nreport   {page}\nnext     {_next(run)}")


def _finished(run: Path, *, dry_run: bool) -> Path | None:
    from ddeval.score.run import finish

    if dry_run:
        console.note(f"would compute the numbers of {run}")
        return None
    finish(run)
    return run


def _file_run(
    path: Path,
    data: Path | None,
    out: Path | None,
    *,
    dry_run: bool,
    split: str,
    images: list[Path],
    id_column: str | None,
    class_columns: list[str],
    class_names: list[str],
    values: Literal["pred_probs", "logits"],
    link: Literal["softmax", "sigmoid"],
    other_class: str | None,
    labels: str | None,
) -> Path | None:
    from ddeval.score.file_run import execute_file, prepare_file
    from ddeval.score.foreign import read_file
    from ddeval.score.numbers import check_labels

    file = read_file(
        path,
        id_column=id_column,
        class_columns=class_columns,
        class_names=class_names,
        kind=values,
        link=link,
    )
    named = data or _named_manifest(None)
    manifest = data if file.labels is not None else named
    if named and not manifest:
        console.note(f"labels are those in {path.name}; splits and patients of {named}: --data {named}")
    job = prepare_file(
        file, manifest, out=out, runs=output_folder("runs"), split=split, link=link, other_class=other_class,
        image_roots=image_roots(images, data), note=console.note,
    )  # fmt: skip
    _describe(job)
    if labels in (None, "v0"):  # a folder that begins with this file refuses another
        where = str(manifest or path)
        check_labels(job.rows, job.predictions.class_names, splits=job.facts["splits"], where=where)
    return None if dry_run else execute_file(job)


def _model_run(
    spec: str,
    data: Path | None,
    out: Path | None,
    *,
    labels: str | None,
    dry_run: bool,
    split: str,
    images: list[Path],
    device: Literal["auto", "cpu", "cuda"],
    dtype: Literal["auto", "fp32", "bf16", "fp16"],
    precision: Literal["native", "fp8"],
    fast_decode: bool,
    batch_size: int,
    tta: Literal["none", "hflip", "multicrop"],
    shard_size: int,
    shard: str | None,
    workers: int,
    engine: Literal["local", "ray"],
    class_names: list[str],
    other_class: str | None,
    against: str | None,
) -> "tuple[Path | None, Job | None, Checkpoint | None]":
    from ddeval.models.checkpoint import UnknownArtefactError, load_checkpoint, locate
    from ddeval.score.numbers import check_labels
    from ddeval.score.plan import parse_shard
    from ddeval.score.run import Settings, execute, is_complete, prepare

    if engine == "ray" and shard:
        raise InputError("--engine ray", "--shard too", expected="one of them", todo="Leave --shard out.")
    part = parse_shard(shard) if shard else _rank()
    if spec == embedded.NAME:
        demo = embedded.ready_demo()
        spec, data = str(demo.artefact), data or demo.manifest
    config = locate(spec)[1]
    manifest = data or _named_manifest(config)
    if manifest is None:
        raise InputError(
            "--data",
            "no manifest",
            expected="a manifest of the images to score",
            todo="Pass --data MANIFEST, set $DDEVAL_MANIFEST, or write `manifest:` into the config.",
        )
    try:
        loaded = load_checkpoint(spec, class_names=class_names or None, other_class=other_class)
    except UnknownArtefactError as error:  # its script is to read these photographs
        error.manifest, error.images = manifest, next(iter(image_roots(images, data)), manifest.parent)
        raise
    if config:  # the run is called what the user called it
        loaded = replace(loaded, name=config.name)
    settings = Settings(
        split=split, device=device, dtype=dtype, precision=precision, fast_decode=fast_decode,
        batch_size=batch_size, shard_size=shard_size, tta=tta,
    )  # fmt: skip
    reference = _reference(loaded, against)
    job = prepare(
        loaded, manifest, settings=settings, out=out, runs=output_folder("runs"),
        image_roots=image_roots(images, data), note=console.note,
    )  # fmt: skip
    _describe(job)
    if labels in (None, "v0"):  # before the model runs for an hour
        check_labels(job.rows, loaded.class_names, splits=job.facts["splits"], where=str(manifest))
    if dry_run:
        return None, None, None
    if engine == "ray":
        from ddeval.score.cluster import execute_on_ray, order_of

        order = order_of(
            spec, manifest, job, settings=settings, class_names=tuple(class_names), other_class=other_class,
            image_roots=tuple(image_roots(images, data)), workers=workers,
        )  # fmt: skip
        return execute_on_ray(job, order, progress=console.progress), job, reference
    run = execute(job, shard=part, workers=workers, progress=console.progress, note=console.note)
    if is_complete(run, job.plan):
        return run, job, reference
    console.say(f"shard {part[0]}/{part[1]} is done; the last of the other shards to finish merges {run}")
    return None, None, None


def _reference(loaded: "Checkpoint", against: str | None) -> "Checkpoint | None":
    """What the answers of a cheaper way are compared with; for an ONNX file, what it was made from."""
    from ddeval.models.checkpoint import load_checkpoint
    from ddeval.score.parity import made_from

    if loaded.kind != "onnx":
        return loaded
    if against is None:
        made = loaded.settings["made_from"]["name"]
        console.note(f"parity with {made} is not measured; --against CHECKPOINT measures it")
        return None
    spec = str(embedded.ready_demo().artefact) if against == embedded.NAME else against
    return made_from(loaded, load_checkpoint(spec))


def _rank() -> tuple[int, int]:
    """The shards of this process among those torchrun started, each on a GPU of its own; else all."""
    if not by_torchrun():
        return 0, 1
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def _named_manifest(config: Any) -> Path | None:
    """The manifest that $DDEVAL_MANIFEST, the config or the project names, in this order."""
    from ddeval.io import place

    project = find_project()
    name = os.environ.get("DDEVAL_MANIFEST") or (config.manifest if config else None)
    return place(name) if name else project.manifest if project else None


def _reported(run: Path, report: Path | None, out: Path | None, *, labels: str, photos: bool) -> Path:
    """Write the page: where asked, else beside a run that was given its own folder, else into reports/."""
    from ddeval.report.html import write_run_report
    from ddeval.score.folder import read_looks, read_run
    from ddeval.score.rows import manifest_path

    date = today()
    page = report or (out / "report.html" if out else output_folder("reports") / f"{date}-{run.name}.html")
    looks = read_looks(manifest_path(run, read_run(run)))
    write_run_report(run, page, label_version=labels, date=date, photos=photos, looks=looks)
    return page


def _next(run: Path) -> str:
    """What one would do now, of the commands there are."""
    steps = {
        "audit": f"ddeval audit {run}",
        "compare": f"ddeval compare {run} RUN",
        "verify": f"ddeval verify {run}",
    }
    there = [step for name, step in steps.items() if name in COMMANDS]
    return "   ·   ".join(there[:2]) or f"ddeval score {run} --labels v1"


def _describe(job: "Job | FileJob") -> None:
    """The line of `described`; and what a class called other needs to be told."""
    console.note(described(job.facts, job.out))
    names = [n for n in job.facts["class_names"] if n.casefold() in ("other", "others")]
    if names and job.facts["other_class"] is None:
        console.note(
            f"{names[0]!r} is a class like the rest; where it means none of them: --other-class {names[0]}"
        )


def described(facts: dict[str, Any], out: Path) -> str:
    """One line: what is scored, on what, into which folder."""
    groups = f"{facts['n_groups']:,} {facts['group_unit']}"
    parts = [
        facts["checkpoint"]["name"],
        f"{', '.join(facts['splits']) or 'all'} {facts['n_images']:,} images, {groups}",
        ", ".join(str(facts[name]) for name in ("device", "dtype") if name in facts),
        str(out),
    ]
    return "  ·  ".join(part for part in parts if part)


def _listed(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def _names(text: str | None) -> list[str]:
    """Class names given as a,b,c or as a file with one a line."""
    from ddeval.io import read_lines

    return read_lines(Path(text)) if text and Path(text).is_file() else _listed(text)
