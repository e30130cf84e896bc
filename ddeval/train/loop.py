"""Training: one readable loop from config and manifest to an artefact folder.

Every epoch draws from a seed made of the run's seed and its own number, so a run that was killed goes on
from its last finished epoch with the same losses. The epoch with the best validation top-1 is the
artefact; the last one is kept beside it, in `training/`.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ddeval.config import Config, ModelConfig, TrainConfig, config_file
from ddeval.data.manifest import manifest_sha256, read_manifest
from ddeval.data.overlay import Overlay
from ddeval.data.questionnaire import FeatureSchema, read_schema
from ddeval.errors import InputError
from ddeval.io import write_text
from ddeval.models.artefact import CARD, write_artefact
from ddeval.models.build import build
from ddeval.models.device import DeviceName, choose_device
from ddeval.models.fusion import Fusion
from ddeval.score.run import Progress, silent
from ddeval.train import state
from ddeval.train.copies import known_copies, write_copies
from ddeval.train.dataset import Images, build_dataset, class_shares, epoch_rows
from ddeval.train.optimiser import WeightAverage, adamw, compile_layers, parameter_groups, rate_factor
from ddeval.train.processes import Processes, Share, check_shares, joined, share_of
from ddeval.train.step import Part, Stepper
from ddeval.train.validation import card_of, stored_embeddings, validate


class TrainResult(NamedTuple):
    """What a training run left behind."""

    folder: Path
    """The artefact: the best epoch."""
    curve: pd.DataFrame
    """One row an epoch, as in curve.jsonl."""
    best: dict[str, Any]
    """Epoch (from 1) of the artefact and its numbers on the validation split."""
    n_train: int
    n_val: int
    left_out: dict[str, int]
    """Why images of train and val were not used -> how many."""


def train(
    config: Config,
    manifest: Path,
    out: Path,
    *,
    overlay: Overlay | None = None,
    image_roots: Sequence[Path] = (),
    device: DeviceName = "auto",
    config_path: Path | None = None,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda line: None,
) -> TrainResult:
    """Train the system of `config` on the splits train and val of `manifest`; write its artefact to `out`.

    A run that `out` holds unfinished is gone on with; a finished one is returned as it is.

    Parameters
    ----------
    overlay : Overlay, optional
        Vetted labels of train or val.
    image_roots : paths
        Where images may lie; the manifest's folder where empty.
    config_path : Path, optional
        File of the config: the questionnaire schema it names is looked up beside it too.
    progress, note : callables
        Told the number of images just learnt from; told each sentence worth showing.

    Raises
    ------
    InputError
        For data that cannot be learnt from, a run begun with other settings, a loss that is not finite
        (the batch is named and the best epoch so far stays), or too little GPU memory (the batch size
        that fits is named).
    """
    with joined(device) as processes:
        return _train(
            config, manifest, out, overlay=overlay, image_roots=image_roots, device=device,
            config_path=config_path, progress=progress, note=note, processes=processes,
        )  # fmt: skip


def _train(
    config: Config,
    manifest: Path,
    out: Path,
    *,
    overlay: Overlay | None,
    image_roots: Sequence[Path],
    device: DeviceName,
    config_path: Path | None,
    progress: Progress,
    note: Callable[[str], None],
    processes: Processes,
) -> TrainResult:
    """`train` as one of several processes, or alone."""
    if not processes.is_first:
        processes.wait()  # for the first to have begun: what it refuses is told once
    model, recipe = _sections(config)
    check_shares(recipe, processes)
    if recipe.cpu_threads:
        torch.set_num_threads(recipe.cpu_threads)
    on = choose_device(device)
    schema = _schema(model, config_path)

    # data
    frame = read_manifest(manifest)
    roots = list(image_roots) or [manifest.parent]
    copies = known_copies(frame, recipe, roots, out, progress=progress, where=str(manifest))
    data = build_dataset(
        frame,
        recipe,
        image_roots=roots,
        class_names=config.classes,
        other_class=config.other_class,
        schema=schema,
        overlay=overlay,
        copies=set(copies["image_id"]),
        where=str(manifest),
    )
    inputs = {
        "config": config.model_dump(mode="json", exclude={"artefact", "manifest"}),
        "schema": schema.to_dict() if schema else None,
        "manifest_sha256": manifest_sha256(frame),
        "labels": {"version": data.labels_version, "sha256": overlay.sha256 if overlay else None},
        "device": on.device.type,
    }
    if processes.is_first:
        run = state.begin(out, inputs)
        write_copies(run.folder, copies)
        processes.wait()
    else:
        run = state.Run(out, is_writer=False)
    if finished := state.read_result(out):
        return TrainResult(out, curve=state.read_curve(out), **finished)
    seed_everything(recipe.seed, 0)
    built = build(model, n_classes=len(data.class_names), answers_width=schema.width if schema else 0)
    with progress("decoding", len(data.sources)) as tick:
        images = Images(
            data.sources,
            built.preprocessing,
            cache_bytes=recipe.cache_gb * 2**30,
            workers=recipe.workers,
            tick=tick,
        )

    # model and optimiser
    module = built.module.to(on.device)
    if recipe.channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = parameter_groups(module, recipe)
    rates = [group["lr"] for group in groups]
    optimiser = adamw(groups, on.device)
    n_seen = len(data.sources) * recipe.epochs
    if compile_layers(module, recipe.compile_layers, n_images=n_seen, device=on.device):
        note("the backbone's layers are compiled once")
    stepper = Stepper(
        module,
        optimiser,
        data,
        recipe,
        preprocessing=built.preprocessing,
        shares=class_shares(data, recipe),
        on=on,
        processes=processes,
    )
    average = WeightAverage(module, recipe.ema_decay) if recipe.ema_decay and processes.is_first else None
    n_done = state.resume(run, module, optimiser, stepper.scaler, average)

    if recipe.stored_embeddings:
        with progress("embedding", len(data.sources)) as tick:
            images.cache = stored_embeddings(stepper, images, len(data.sources), tick)

    # loop
    n_images = len(epoch_rows(data, recipe, np.random.default_rng(0)))
    n_steps = -(-n_images // (recipe.batch_size * recipe.accumulate))  # of an epoch
    said = [on.note, f"{n_images:,} images an epoch, {len(data.val_rows):,} to validate; {on.device.type}"]
    for line in filter(None, said):
        note(line)
    with progress("training", n_images * (recipe.epochs - n_done)) as tick:
        for epoch in range(n_done, recipe.epochs):
            began = time.monotonic()
            rng = seed_everything(recipe.seed, epoch + 1)
            freeze(module, is_frozen=epoch < recipe.frozen_epochs)
            if epoch in (n_done, recipe.frozen_epochs):
                stepper.share_gradients()
            share = share_of(epoch_rows(data, recipe, rng), recipe, processes)
            batches = images.batches(share.rows, recipe.batch_size)
            losses = []
            for i, parts in enumerate(_grouped(batches, share)):
                factor = rate_factor(
                    epoch * n_steps + i,
                    n_steps=recipe.epochs * n_steps,
                    n_frozen=recipe.frozen_epochs * n_steps,
                    n_warmup=round(recipe.warmup_epochs * n_steps),
                )
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                where = f"{out} epoch {epoch + 1} batch {i + 1}"
                losses.append(stepper.take(parts, seed=int(rng.integers(2**31)), where=where))
                if average:
                    average.update(module)
                tick(sum(len(rows) for rows, _, _ in parts) * processes.n)

            if not processes.is_first:
                processes.wait()  # for the first to have validated and saved
                continue
            kept = average.state if average else module.state_dict()
            metrics = validate(stepper, kept, images, data)
            run.curve.append({"epoch": epoch + 1, "train_loss": float(np.mean(losses)), **metrics})
            if run.best is None or metrics["top_1_accuracy"] > run.best["top_1_accuracy"]:
                run.best = {"epoch": epoch + 1, **metrics}
                write_artefact(
                    out,
                    state=kept,
                    name=config.name,
                    model=built.model,
                    preprocessing=built.preprocessing,
                    class_names=data.class_names,
                    other_class=config.other_class,
                    schema=schema,
                    metrics={"split": "val", "n_images": len(data.val_rows), **run.best},
                    provenance=inputs | {"versions": state.versions()},
                )
            state.save(run, module, optimiser, stepper.scaler, average)
            note(_epoch_line(run, recipe, n_images, time.monotonic() - began))
            processes.wait()

    if not processes.is_first:
        processes.wait()  # for the first to have finished
        return TrainResult(out, curve=state.read_curve(out), **(state.read_result(out) or {}))
    unreadable = {"unreadable": len(images.failures)} if images.failures else {}
    left_out = data.left_out | unreadable
    write_text(out / CARD, card_of(out, config, data, images, stepper, left_out=left_out, inputs=inputs))
    result: dict[str, Any] = {
        "best": run.best,
        "n_train": len(data.train_rows),
        "n_val": len(data.val_rows),
        "left_out": left_out,
    }
    state.write_result(out, result)
    processes.wait()
    return TrainResult(out, curve=state.read_curve(out), **result)


def seed_everything(seed: int, epoch: int) -> np.random.Generator:
    """A generator of its own for each epoch, and torch's (dropout, random weights) set from it."""
    rng = np.random.default_rng([seed, epoch])
    torch.manual_seed(int(rng.integers(2**31)))
    return rng


def freeze(module: Fusion, *, is_frozen: bool) -> None:
    """Training mode, with a backbone that learns or one that stays as it is, batch statistics included."""
    module.train()
    module.backbone.requires_grad_(not is_frozen)
    if is_frozen:
        module.backbone.eval()


def _grouped(batches: Iterator[Part], share: Share) -> Iterator[list[Part]]:
    """This process's batches of each step; a spare one counts as unreadable, so that it weighs nothing."""
    for n, is_spare in share.steps:
        parts = list(itertools.islice(batches, n))
        yield [(rows, pixels, readable & False) for rows, pixels, readable in parts] if is_spare else parts


def _sections(config: Config) -> tuple[ModelConfig, TrainConfig]:
    if config.model is None or config.train is None:
        missing = "model" if config.model is None else "train"
        raise InputError(
            f"config {config.name}",
            f"no `{missing}:`",
            expected="what to train and how",
            todo="Take one of the shipped configs as a pattern.",
        )
    return config.model, config.train


def _schema(model: ModelConfig, config_path: Path | None) -> FeatureSchema | None:
    if model.feature_schema is None:
        return None
    return read_schema(config_file(model.feature_schema, beside=config_path, where="model.feature_schema"))


def _epoch_line(run: state.Run, recipe: TrainConfig, n_images: int, seconds: float) -> str:
    """What a person is told of an epoch, with the time the remaining ones will take."""
    last, left = run.curve[-1], recipe.epochs - len(run.curve)
    best = run.best or {}
    ends = f", {left * seconds / 60:.1f} min left" if left else ""
    return (
        f"epoch {last['epoch']}/{recipe.epochs}  loss {last['train_loss']:.4f}  "
        f"val top-1 {100 * last['top_1_accuracy']:.1f} %  balanced {100 * last['balanced_accuracy']:.1f} %  "
        f"best {100 * best['top_1_accuracy']:.1f} % (epoch {best['epoch']})  "
        f"{n_images / seconds:,.0f} images/s{ends}"
    )
