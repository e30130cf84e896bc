"""Statistics on the CPU: every metric of a run with its interval, beside the loop over scikit-learn.

    python benchmarks/statistics_speed.py [--json FILE] [--quick]

Three tables, one JSON:

1. 15,561 images x 26 classes, 9,200 patients, 2,000 resamples. Ours is timed from process start to the
   last number, in a process of its own. The peer copies the rows of each resample and calls
   scikit-learn; a few of its resamples are timed and the time is scaled to 2,000 (it is linear in them).
   It gives fewer numbers than ours: no calibration error, no selective metric, no case level.
2. Values alone at four sizes up to 1,000,000 x 26, with the peak memory of the process.
3. Intervals at four sizes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddeval import io

N_CLASSES = 26
N_RESAMPLES = 2000
IMAGES_PER_GROUP = 15_561 / 9_200


def run_case(n_images: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Labels of unequal frequency, probabilities of a model that is right in about 73 %, patients."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, N_CLASSES + 1) ** 0.7
    labels = rng.choice(N_CLASSES, p=share / share.sum(), size=n_images)
    logits = rng.normal(size=(n_images, N_CLASSES)).astype(np.float32)
    logits[np.arange(n_images), labels] += 2.6
    n_groups = round(n_images / IMAGES_PER_GROUP)
    groups = np.concatenate([np.arange(n_groups), rng.integers(n_groups, size=n_images - n_groups)])
    return {"labels": labels, "logits": logits, "groups": groups}


def ours(case: Path, n_resamples: int, other_class: str | None) -> None:
    """Child process: read the case, summarise, print what was done."""
    from ddeval.metrics.arrays import softmax
    from ddeval.metrics.summary import summarise

    arrays = np.load(case)
    summary = summarise(
        arrays["labels"],
        softmax(arrays["logits"]),
        groups=arrays["groups"],
        class_names=[f"class {k}" for k in range(N_CLASSES)],
        other_class=other_class,
        rng=np.random.default_rng(0),
        n_resamples=n_resamples,
    )
    is_whole = summary.metrics["class_name"].isna()
    print(
        json.dumps(
            {
                "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                "n_metrics": int(is_whole.sum()),
                "n_numbers": len(summary.metrics),
                "n_intervals": int(summary.metrics["ci_low"].notna().sum()),
                "top_1_accuracy": summary.metrics["value"].iloc[0],
            }
        )
    )


def timed(case: dict[str, np.ndarray], n_resamples: int, other_class: str | None = None) -> dict[str, float]:
    """Seconds of a fresh process from its start to its end, CPU seconds, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        np.savez(path, **case)
        command = [sys.executable, __file__, "--child", str(path), str(n_resamples)]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [*command, *([other_class] if other_class else [])], check=True, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, **json.loads(done.stdout)}


def scikit_learn_loop(case: dict[str, np.ndarray], n_timed: int) -> tuple[float, int]:
    """Seconds of one resample (copied rows, one call a metric), and how many numbers it gives."""
    from sklearn import metrics as sk

    from ddeval.metrics.arrays import softmax

    labels, probs, groups = case["labels"], softmax(case["logits"]), case["groups"]
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(groups))[:-1])
    classes = np.arange(N_CLASSES)
    rng = np.random.default_rng(0)
    numbers: list[float] = []
    start = time.perf_counter()
    for _ in range(n_timed):
        rows = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        y, p = labels[rows], probs[rows]
        predicted, one_hot = p.argmax(axis=1), np.eye(N_CLASSES)[y]
        p = p / p.sum(axis=1, keepdims=True)
        auroc = sk.roc_auc_score(one_hot, p, average=None)
        average_precision = sk.average_precision_score(one_hot, p, average=None)
        precision, recall, f1, support = sk.precision_recall_fscore_support(y, predicted, labels=classes)
        numbers = [
            *(sk.top_k_accuracy_score(y, p, k=k, labels=classes) for k in (1, 3, 5)),
            sk.balanced_accuracy_score(y, predicted),
            f1.mean(),
            np.average(f1, weights=support),
            sk.matthews_corrcoef(y, predicted),
            sk.cohen_kappa_score(y, predicted),
            auroc.mean(),
            np.average(auroc, weights=support),
            average_precision.mean(),
            sk.log_loss(y, p, labels=classes),
            sk.brier_score_loss(y, p, labels=classes),
            *np.concatenate([auroc, average_precision, precision, recall, f1]),
        ]
    return (time.perf_counter() - start) / n_timed, len(numbers)


def table(title: str, rows: list[dict[str, object]]) -> None:
    print(f"\n{title}")
    cells = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a tenth of every size")
    arguments = parser.parse_args()
    scale = 10 if arguments.quick else 1
    warnings.simplefilter("ignore")

    n_images = 15_561 // scale
    case = run_case(n_images)
    closed, with_other = timed(case, N_RESAMPLES), timed(case, N_RESAMPLES, f"class {N_CLASSES - 1}")
    n_timed = 5
    per_resample, n_numbers = scikit_learn_loop(case, n_timed)
    peer = {"seconds": per_resample * N_RESAMPLES, "n_intervals": n_numbers}
    intervals = [
        {"what": name, "seconds": run["seconds"], "intervals": run["n_intervals"], "times the peer": times}
        for name, run, times in (
            ("ddeval, one set", closed, peer["seconds"] / closed["seconds"]),
            ("ddeval, with other (two sets)", with_other, peer["seconds"] / with_other["seconds"]),
            (f"scikit-learn loop ({n_timed} resamples timed, scaled)", peer, 1.0),
        )
    ]
    table(f"{n_images:,} x {N_CLASSES}, {N_RESAMPLES:,} resamples, from process start", intervals)

    def by_size(sizes: Sequence[int], n_resamples: int) -> list[dict[str, float]]:
        return [
            {
                "images": n,
                "seconds": run["seconds"],
                "CPU seconds": run["cpu_seconds"],
                "us an image": run["seconds"] / n * 1e6,
                "GB": run["peak_gb"],
            }
            for n in (size // scale for size in sizes)
            for run in [timed(run_case(n), n_resamples)]
        ]

    values = by_size((125_000, 250_000, 500_000, 1_000_000), 0)
    table(f"values alone, n x {N_CLASSES}, from process start", values)

    growth = by_size((8_000, 16_000, 32_000, 64_000), N_RESAMPLES)
    table(f"with {N_RESAMPLES:,} resamples, n x {N_CLASSES}, from process start", growth)

    if arguments.json:
        io.write_json(
            arguments.json,
            {
                "cpus": os.cpu_count(),
                "load": os.getloadavg()[0],
                "intervals": {"ours": closed, "ours_with_other": with_other, "scikit_learn": peer},
                "values": values,
                "growth": growth,
            },
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        ours(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
    else:
        main()
