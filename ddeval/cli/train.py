"""`ddeval train`: config, manifest and label overlay in; an artefact folder out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ddeval.cli import console
from ddeval.cli.options import by_torchrun, is_shown
from ddeval.errors import InputError
from ddeval.project import find_project, image_roots

if TYPE_CHECKING:
    from ddeval.config import Config
    from ddeval.data.overlay import Overlay


def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Name of a config, or its YAML file.")],
    data: Annotated[Path | None, typer.Option("--data", help="Manifest [the config's or project's].")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Vetted labels of train or val: v1, ... or a file [v0: none].")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Artefact folder [artefacts/CONFIG].")] = None,
    images: Annotated[list[Path] | None, typer.Option(help="Folder images may lie in [manifest's].")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="A knob of the config: train.focal_gamma=2.")
    ] = None,
    folds: Annotated[
        int,
        typer.Option(min=0, help="Judge each training image by one of so many systems that did not see it."),
    ] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
) -> None:
    """Train the system of a config on the splits train and val; the best epoch becomes the artefact.

    A run that was interrupted goes on from its last finished epoch. Under torchrun its GPUs share the
    batches of each step out (`train.accumulate` of them). With --folds no artefact is made but a
    run of the split train, for `ddeval audit RUN --as-given`.

    Example: ddeval train gen2a_medsiglip --data manifest.csv --labels v1
    """
    from ddeval.config import read_config
    from ddeval.data.overlay import find_overlay, read_overlay
    from ddeval.score.numbers import OVERLAYS

    path = _config_path(config)
    system = read_config(path, changes=changes or [])
    manifest, roots = _manifest(system, data, images or [])
    ending = "-out-of-fold" if folds else ""
    folder = out or Path("artefacts") / f"{system.name}{ending}"
    wanted = labels not in (None, "v0")
    overlay = read_overlay(find_overlay(str(labels), split="train", folder=OVERLAYS)) if wanted else None
    vetted = f", labels {overlay.split}-{overlay.version}" if overlay else ""
    if is_shown():
        console.note(
            f"{'would train' if dry_run else 'training'} {system.name} on {manifest}{vetted} -> {folder}"
        )
    if dry_run:
        return

    if folds:
        if by_torchrun():
            raise InputError(
                "--folds", "several processes", expected="one", todo="Start the folds without torchrun."
            )
        _train_folds(system, manifest, folder, folds, overlay, roots, device, path, as_json=as_json)
        return
    from ddeval.score.run import silent
    from ddeval.train.loop import train as run

    result = run(
        system,
        manifest,
        folder,
        overlay=overlay,
        image_roots=roots,
        device=device,
        config_path=path,
        progress=console.progress if is_shown() else silent,
        note=console.note if is_shown() else lambda line: None,
    )
    if not is_shown():
        return
    for reason, n in result.left_out.items():
        console.note(f"left out: {n:,} images, {reason}")
    if as_json:
        console.say_json(
            {
                "artefact": str(result.folder),
                "split": "val",
                "best": result.best,
                "n_train": result.n_train,
                "n_val": result.n_val,
                "left_out": result.left_out,
            }
        )
        return
    best = result.best
    console.say(
        f"{result.folder}: epoch {best['epoch']}, val top-1 {100 * best['top_1_accuracy']:.1f} % "
        f"(n = {result.n_val:,}, chosen on the same images)"
    )
    console.say(f"next: ddeval score {result.folder}{_data_flags(manifest, data, images or [])}")


def _data_flags(manifest: Path, data: Path | None, images: list[Path]) -> str:
    """What `ddeval score` must be told to find the same images: nothing where the project names them."""
    project = find_project()
    if data is None and not images and project is not None and project.manifest == manifest:
        return ""
    return f" --data {manifest}" + "".join(f" --images {root}" for root in images)


def _train_folds(
    system: "Config", manifest: Path, folder: Path, n_folds: int, overlay: "Overlay | None",
    roots: list[Path], device: Literal["auto", "cpu", "cuda"], path: Path, *, as_json: bool,
) -> None:  # fmt: skip
    from ddeval.train.folds import train_folds

    judged = train_folds(
        system, manifest, folder, n_folds=n_folds, overlay=overlay, image_roots=roots, device=device,
        config_path=path, note=console.note,
    )  # fmt: skip
    if as_json:
        console.say_json({"run": str(judged), "split": "train", "n_folds": n_folds})
        return
    console.say(f"{judged}: training images, each judged by a system that saw neither it nor its patient")
    console.say(f"next     ddeval audit {judged} --as-given")


def _config_path(name: str) -> Path:
    from ddeval.config import config_names, find_config

    path = Path(name) if name.endswith((".yaml", ".yml")) else find_config(name)
    if path is None or not path.is_file():
        names = ", ".join(config_names())
        raise InputError(
            "config",
            f"{name!r}, no such config",
            expected=f"a YAML file or one of {names}",
            todo="See configs/.",
        )
    return path


def _manifest(system: object, data: Path | None, images: list[Path]) -> tuple[Path, list[Path]]:
    """The manifest and the folders its images may lie in: as the flags say, else config, else project."""
    from ddeval.config import Config, manifest_location
    from ddeval.io import place

    project = find_project()
    named = manifest_location(system) if isinstance(system, Config) else None
    manifest = data or (place(named) if named else project.manifest if project else None)
    if manifest is None:
        raise InputError(
            "--data",
            "no manifest",
            expected="a manifest with the splits train and val",
            todo="Pass --data MANIFEST, set $DDEVAL_MANIFEST, or write `manifest:` into the config.",
        )
    return manifest, image_roots(images, data)
