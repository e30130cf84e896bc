"""What is vetting worth on real human noise? CIFAR-10N: train, audit, relabel the top of the queue, retrain.

    python benchmarks/cifar10n_loop.py shared/data/cifar10n/cifar10n_15k.npz WORK [--json FILE] [--save NPZ]

15,000 photographs with labels that people gave (`aggregate` 9 % wrong, `random1` 17 %): 13,500 to train on
and 1,500 to choose the epoch by, both noisy; 3,000 test photographs with clean labels. Per kind of noise and
seed: a network trained on the noisy labels; out-of-fold probabilities of whole training runs on four folds;
`label_quality` ranks the training labels; the true labels of the first 1,500 come back as an overlay and the
network is trained again; so it is with 1,500 drawn at random; `clean` (asked for
with --clean) is trained on all true labels.
Everything is ddeval's own: trainer, scorer, audit, overlay. A run that is there is not trained again.
"""

import argparse
import json
import multiprocessing
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import average_precision_score

from ddeval.audit import label_quality
from ddeval.audit.folds import fold_of
from ddeval.config import Config, parse_config
from ddeval.data.overlay import Overlay
from ddeval.io import write_csv
from ddeval.metrics import top_k_accuracy

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NOISE = {"aggregate": "aggre_label", "random1": "random_label1"}
N_VAL, N_FOLDS = 1500, 4
ARMS = ("noisy", "random", "queue")


@dataclass
class Data:
    """The data set, and where its photographs lie."""

    images: Path
    given: dict[str, np.ndarray]
    """Kind of noise -> label of each training photograph; `clean` is the truth."""
    test: np.ndarray
    is_val: np.ndarray

    def manifest(self, noise: str, *, judged: np.ndarray | None = None) -> pd.DataFrame:
        """Train and val under one kind of labels, and the test photographs or the `judged` rows."""
        labels = np.array(CLASSES, dtype=object)[self.given[noise]]
        frame = pd.DataFrame(
            {
                "image_id": [f"train-{i:05d}" for i in range(len(labels))],
                "label": labels,
                "split": np.where(self.is_val, "val", "train"),
            }
        )
        if judged is None:
            ids = [f"test-{i:05d}" for i in range(len(self.test))]
            truth = np.array(CLASSES, dtype=object)[self.test]
            frame = pd.concat([frame, pd.DataFrame({"image_id": ids, "label": truth, "split": "test"})])
        else:
            frame.loc[judged, "split"] = "test"
        return frame.assign(image=frame["image_id"] + ".png").reset_index(drop=True)


@dataclass
class Job:
    """One training run and what its network says of the split test."""

    name: str
    seed: int
    noise: str
    judged: np.ndarray | None = None
    relabelled: np.ndarray | None = None
    """Rows whose true label is laid over the given one."""
    rank: int = 0
    """Jobs of a lower rank are begun first."""


@dataclass
class Found:
    """What has been said so far, by name of the job."""

    said: dict[str, Any] = field(default_factory=dict)
    queued: dict[str, np.ndarray] = field(default_factory=dict)


def read_data(path: Path, work: Path, *, limit: int | None) -> Data:
    """The data set with its photographs written as PNG files, once."""
    held = np.load(path)
    n_train, n_test = (limit or len(held["images"])), (limit or len(held["test_images"]))
    images = work / "images"
    if not images.is_dir():
        images.mkdir(parents=True)
        for prefix, pixels in (("train", held["images"][:n_train]), ("test", held["test_images"][:n_test])):
            for i, image in enumerate(pixels):
                Image.fromarray(image).save(images / f"{prefix}-{i:05d}.png", compress_level=1)
    given = {noise: held[key][:n_train].astype(np.int64) for noise, key in NOISE.items()}
    given["clean"] = held["clean_label"][:n_train].astype(np.int64)
    is_val = np.zeros(n_train, bool)
    is_val[np.random.default_rng(0).permutation(n_train)[: n_train * N_VAL // 15_000]] = True
    return Data(images, given, held["test_labels"][:n_test].astype(np.int64), is_val)


def system(seed: int, epochs: int) -> Config:
    """A narrow ResNet-18 on photographs enlarged to 64 px."""
    config: Config = parse_config(
        {
            "name": "cifar10n",
            "classes": list(CLASSES),
            "model": {
                "backbone": "resnet50",
                "weights": "random",
                "backbone_config": {
                    "layer_type": "basic",
                    "embedding_size": 48,
                    "depths": [2, 2, 2, 2],
                    "hidden_sizes": [48, 96, 192, 384],
                },
                "image_size": 64,
                "image_norm": "imagenet",
                "preprocessing": {"resize": "squash", "edge": 64},
                "dropout": 0.2,
            },
            "train": {
                "seed": seed,
                "epochs": epochs,
                "batch_size": 256,
                "learning_rate": 3.0e-3,
                "weight_decay": 0.05,
                "warmup_epochs": 3,
                "ema_decay": 0.99,
                "channels_last": True,
                "cpu_threads": 1,
                "workers": 1,
                "augment": [
                    "hflip",
                    {"kind": "random_resized_crop", "scale": [0.5, 1.0], "ratio": [0.8, 1.25]},
                    {"kind": "colour_jitter"},
                    {"kind": "erase", "share": 0.3, "scale": 0.15},
                ],
            },
        },
        where="benchmark",
    )
    return config


def oracle(data: Data, job: Job, frame: pd.DataFrame) -> Overlay:
    """The true labels of `job.relabelled` as an overlay of the training split."""
    rows = np.sort(np.asarray(job.relabelled))
    truth = np.array(CLASSES, dtype=object)[data.given["clean"][rows]]
    given = frame["label"].to_numpy()[rows]
    labels = pd.DataFrame(
        {
            "image_id": frame["image_id"].to_numpy()[rows],
            "split": "train",
            "given_label": given,
            "outcome": np.where(truth == given, "keep", "relabel"),
            "labels": [[{"label": name, "weight": 1.0}] for name in truth],
        }
    )
    return Overlay(labels, "v1", "train", {}, sha256=f"{job.name}-{len(rows)}")


def fit(data: Data, job: Job, work: Path, epochs: int) -> dict[str, np.ndarray]:
    """Train, score, and give `image_ids`, `probs` (N, K) and `embeddings` (N, E) of the judged images."""
    from ddeval.models.checkpoint import load_checkpoint
    from ddeval.score.predictions import read_predictions
    from ddeval.score.run import Settings, score
    from ddeval.train.loop import train

    folder = work / job.name
    folder.mkdir(parents=True, exist_ok=True)
    frame = data.manifest(job.noise, judged=job.judged)
    manifest = folder / "manifest.csv"
    write_csv(manifest, frame)
    overlay = None if job.relabelled is None else oracle(data, job, frame)
    config = system(job.seed, epochs)
    with (folder / "notes.txt").open("a") as notes:
        train(
            config, manifest, folder / "artefact", overlay=overlay, image_roots=[data.images],
            note=lambda line: print(line, file=notes, flush=True),
        )  # fmt: skip
    checkpoint = load_checkpoint(str(folder / "artefact"))
    run = score(
        checkpoint, manifest, settings=Settings(batch_size=256), out=folder / "run",
        image_roots=[data.images], workers=1,
    )  # fmt: skip
    said = read_predictions(run / "predictions.parquet")
    return {
        "image_ids": said.frame["image_id"].to_numpy(str),
        "probs": said.pred_probs(),
        "embeddings": np.load(run / "embeddings.npy").astype(np.float16),
    }


def first_jobs(
    data: Data, noises: list[str], seeds: list[int], n_relabel: int, *, with_clean: bool
) -> list[Job]:
    jobs = [Job(f"clean-{seed}-clean", seed, "clean", rank=2) for seed in seeds if with_clean]
    for seed in seeds:
        for noise in noises:
            rank = 3 * noises.index(noise)
            train = np.flatnonzero(~data.is_val)
            drawn = np.random.default_rng([seed, 1]).choice(train, n_relabel, replace=False)
            for k, judged in enumerate(folds(data, noise, seed)):
                jobs.append(Job(f"{noise}-{seed}-fold{k}", seed, noise, judged=judged, rank=rank))
            jobs.append(Job(f"{noise}-{seed}-noisy", seed, noise, rank=rank + 1))
            jobs.append(Job(f"{noise}-{seed}-random", seed, noise, relabelled=drawn, rank=rank + 1))
    return jobs


def folds(data: Data, noise: str, seed: int) -> list[np.ndarray]:
    """Rows of each fold of the training split."""
    train = np.flatnonzero(~data.is_val)
    fold = fold_of(data.given[noise][train], n_folds=N_FOLDS, rng=np.random.default_rng([seed, 2]))
    return [train[fold == k] for k in range(N_FOLDS)]


def out_of_fold(data: Data, noise: str, seed: int, said: dict[str, Any]) -> dict[str, np.ndarray]:
    """Rows of train with the fold, probabilities and embeddings of the network that did not see them."""
    parts = [said[f"{noise}-{seed}-fold{k}"] for k in range(N_FOLDS)]
    rows = np.concatenate([[int(name[-5:]) for name in part["image_ids"]] for part in parts])
    order = np.argsort(rows)
    return {
        "rows": rows[order],
        "fold": np.repeat(np.arange(N_FOLDS), [len(part["probs"]) for part in parts])[order],
        **{key: np.concatenate([part[key] for part in parts])[order] for key in ("probs", "embeddings")},
    }


def queue_job(data: Data, noise: str, seed: int, said: dict[str, Any], n_relabel: int) -> Job:
    """The run with the true labels of the first of the queue."""
    held = out_of_fold(data, noise, seed, said)
    quality = label_quality(data.given[noise][held["rows"]], held["probs"])
    first = held["rows"][np.argsort(quality, kind="stable")[:n_relabel]]
    return Job(f"{noise}-{seed}-queue", seed, noise, relabelled=first)


def run_all(data: Data, options: argparse.Namespace) -> Found:
    """Every job, the cheap and needed ones first, until done or out of time."""
    pending = first_jobs(data, options.labels, options.seeds, options.n_relabel, with_clean=options.clean)
    waiting = {(noise, seed) for noise in options.labels for seed in options.seeds}
    found, began = Found(), time.monotonic()
    pool = ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn"))
    running: dict[Future[Any], Job] = {}
    while pending or running:
        pending.sort(key=lambda job: job.rank)
        while pending and len(running) < options.processes:
            job = pending.pop(0)
            running[pool.submit(fit, data, job, options.work, options.epochs)] = job
        left = options.stop_after - (time.monotonic() - began)
        done, _ = wait(running, timeout=max(left, 0), return_when=FIRST_COMPLETED)
        if not done:
            print(f"stopped after {options.stop_after} s with {len(pending) + len(running)} runs to do")
            for process in list(pool._processes.values()):
                process.kill()
            break
        for future in done:
            job = running.pop(future)
            found.said[job.name] = future.result()
            print(f"{time.monotonic() - began:6.0f} s  {job.name}", flush=True)
            key = (job.noise, job.seed)
            if key in waiting and all(
                f"{job.noise}-{job.seed}-fold{k}" in found.said for k in range(N_FOLDS)
            ):
                waiting.remove(key)
                new = queue_job(data, *key, found.said, options.n_relabel)
                found.queued[f"{job.noise}-{job.seed}"] = np.asarray(new.relabelled)
                pending.append(new)
    pool.shutdown(wait=False, cancel_futures=True)
    return found


def summary(data: Data, found: Found, options: argparse.Namespace) -> dict[str, Any]:
    """Clean-test accuracy of each arm, by noise and seed, and what the queue held."""
    result: dict[str, Any] = {"n_relabel": options.n_relabel, "epochs": options.epochs, "noise": {}}
    for noise in options.labels:
        seeds = [s for s in options.seeds if all(_name(a, noise, s) in found.said for a in ARMS)]
        if not seeds:
            print(f"{noise}: no seed is complete")
            continue
        has_clean = all(_name("clean", noise, s) in found.said for s in seeds)
        correct = {
            a: np.array([_correct(data, found, a, noise, s) for s in seeds])
            for a in (*ARMS, *(["clean"] if has_clean else []))
        }  # (seeds, N)
        rows: dict[str, Any] = {
            "seeds": seeds,
            "wrong": float((data.given[noise] != data.given["clean"]).mean()),
        }
        rows["accuracy"] = {arm: held.mean(axis=1).tolist() for arm, held in correct.items()}
        for arm, base in (("queue", "noisy"), ("random", "noisy"), ("queue", "random")):
            each = (correct[arm].astype(float) - correct[base]).mean(axis=0)  # of a photograph, over seeds
            half = 1.96 * each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else float("nan")
            gain = float(each.mean())
            rows[f"{arm} - {base}"] = {"gain": gain, "ci_low": gain - half, "ci_high": gain + half}
        rows["audit"] = [_audit(data, found, noise, s) for s in seeds]
        result["noise"][noise] = rows
    return result


def _name(arm: str, noise: str, seed: int) -> str:
    return f"clean-{seed}-clean" if arm == "clean" else f"{noise}-{seed}-{arm}"


def _correct(data: Data, found: Found, arm: str, noise: str, seed: int) -> np.ndarray:
    said = found.said[_name(arm, noise, seed)]
    rows = np.array([int(name[-5:]) for name in said["image_ids"]])
    return np.asarray(said["probs"].argmax(axis=1) == data.test[rows])


def _audit(data: Data, found: Found, noise: str, seed: int) -> dict[str, float]:
    held = out_of_fold(data, noise, seed, found.said)
    given, truth = data.given[noise][held["rows"]], data.given["clean"][held["rows"]]
    quality, queue = label_quality(given, held["probs"]), found.queued[f"{noise}-{seed}"]
    own = held["probs"][np.arange(len(given)), given]
    return {
        "n_wrong": int((given != truth).sum()),
        "wrong_in_queue": int((data.given[noise][queue] != data.given["clean"][queue]).sum()),
        "average_precision": average_precision_score(given != truth, -quality),
        "average_precision_self_confidence": average_precision_score(given != truth, -own),
        "out_of_fold_accuracy": top_k_accuracy(truth, held["probs"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--labels", nargs="+", default=list(NOISE), choices=list(NOISE))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--n-relabel", type=int, default=1500)
    parser.add_argument("--clean", action="store_true", help="train on all true labels too")
    parser.add_argument("--processes", type=int, default=1, help="training runs at a time")
    parser.add_argument("--limit", type=int, help="photographs of each split, for a trial")
    parser.add_argument("--stop-after", type=float, default=1e6, help="seconds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--save", type=Path, help="out-of-fold probabilities and embeddings, as npz")
    options = parser.parse_args()
    data = read_data(options.data, options.work, limit=options.limit)
    found = run_all(data, options)
    if options.save:
        _save(options.save, data, found, options)
    result = summary(data, found, options)
    for noise, rows in result["noise"].items():
        print(
            f"\n{noise}: {100 * rows['wrong']:.1f} % wrong, seeds {rows['seeds']}, {len(data.test)} to test"
        )
        for arm, values in rows["accuracy"].items():
            print(
                f"  {arm:8}"
                + "".join(f"{100 * v:7.1f}" for v in values)
                + f"   mean {100 * np.mean(values):.2f}"
            )
        for name in ("queue - noisy", "random - noisy", "queue - random"):
            low, gain, high = (100 * rows[name][key] for key in ("ci_low", "gain", "ci_high"))
            print(f"  {name:16}{gain:+6.2f} points [{low:+.2f}, {high:+.2f}]")
        for line in rows["audit"]:
            print("  audit", {key: round(value, 4) for key, value in line.items()})
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


def _save(path: Path, data: Data, found: Found, options: argparse.Namespace) -> None:
    """Out-of-fold answers by noise and seed; embeddings of the first of all alone (they are large)."""
    held: dict[str, np.ndarray] = {}
    for noise in options.labels:
        for seed in options.seeds:
            if f"{noise}-{seed}" not in found.queued:
                continue
            part = out_of_fold(data, noise, seed, found.said)
            if (noise, seed) != (options.labels[0], options.seeds[0]):
                part.pop("embeddings")
            part["given"], part["clean"] = data.given[noise][part["rows"]], data.given["clean"][part["rows"]]
            held |= {f"{noise}-{seed}-{key}": value for key, value in part.items()}
    narrow = {k: v.astype(np.float32) if k.endswith("probs") else v for k, v in held.items()}
    np.savez_compressed(path, allow_pickle=False, **narrow)


if __name__ == "__main__":
    main()
