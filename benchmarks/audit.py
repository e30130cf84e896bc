"""How long does an audit take, and how much memory? Prints one table and writes JSON.

    python benchmarks/audit.py [--out audit.json] [--scale 1.0]

Each line is a process of its own on two threads; time is of the work alone (wall and CPU), memory the peak of
the process with its input. A million predictions of 26 classes through everything `ddeval audit` says of
them (ranking, reasons, class tables, queue); 50,000 embeddings of 1,152 numbers compared pair by pair, with
planted copies that must all be found. Beside each its peer at a size it can do: cleanlab's filter, and
scikit-learn's radius search.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_IMAGES, N_CLASSES = 1_000_000, 26
N_EMBEDDED, N_NUMBERS = 50_000, 1_152
N_COPIES = 500
THRESHOLD = 0.995


def predictions(n: int) -> tuple[Any, Any]:
    """Labels, 10 % of them wrong, and probabilities that name the truth on some 75 %."""
    import numpy as np

    rng = np.random.default_rng(0)
    truth = rng.integers(N_CLASSES, size=n)
    labels = np.where(rng.random(n) < 0.1, rng.integers(N_CLASSES, size=n), truth)
    probs = rng.normal(0, 1, (n, N_CLASSES))
    probs[np.arange(n), truth] += rng.normal(3.5, 1.5, n)
    probs -= probs.max(axis=1, keepdims=True)
    np.exp(probs, out=probs)
    probs /= probs.sum(axis=1, keepdims=True)
    return labels, probs


def embeddings(n: int) -> Any:
    """Rows in 50 clusters, the last of them copies of the first with a little noise."""
    import numpy as np

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, N_NUMBERS)).astype(np.float32)
    rows = rng.standard_normal((n, N_NUMBERS), dtype=np.float32)
    rows += centres[rng.integers(50, size=n)]
    copies = min(N_COPIES, n // 4)
    rows[n - copies :] = rows[:copies] * 1.5
    rows[n - copies :] += rng.normal(0, 0.02, (copies, N_NUMBERS))
    return rows


def audit(n: int) -> Callable[[], str]:
    import numpy as np
    import pandas as pd

    from ddeval.audit.findings import findings
    from ddeval.audit.queue import MIXES

    labels, probs = predictions(n)
    rows = pd.DataFrame({"image_id": [f"i{i:07d}" for i in range(n)]})
    rows["case_id"] = [f"c{i // 2:07d}" for i in range(n)]
    names = [f"class {k:02d}" for k in range(N_CLASSES)]

    def work() -> str:
        found = findings(
            rows, labels, {"model": probs}, class_names=names, n_queue=500, mix=MIXES["test"],
            rng=np.random.default_rng(0),
        )  # fmt: skip
        return f"{len(found.issues):,} ranked, {len(found.queue.items)} in the queue"

    return work


def cleanlab(n: int) -> Callable[[], str]:
    from ddeval.audit.confident import label_issue_mask

    labels, probs = predictions(n)
    return lambda: f"{label_issue_mask(labels, probs).sum():,} flagged"


def duplicates(n: int) -> Callable[[], str]:
    from ddeval.audit import near_duplicates

    rows = embeddings(n)

    def work() -> str:
        found = near_duplicates(rows, threshold=THRESHOLD)
        copies = min(N_COPIES, n // 4)
        n_planted = int((found["second"] - found["first"] == n - copies).sum())
        return f"{n_planted} of {copies} planted pairs, {len(found) - n_planted} others"

    return work


def radius_search(n: int) -> Callable[[], str]:
    from sklearn.neighbors import NearestNeighbors

    rows = embeddings(n)

    def work() -> str:
        search = NearestNeighbors(radius=1 - THRESHOLD, metric="cosine", algorithm="brute").fit(rows)
        near = search.radius_neighbors(rows, return_distance=False)
        return f"{sum(len(one) - 1 for one in near) // 2} pairs"

    return work


PARTS: dict[str, tuple[Callable[[int], Callable[[], str]], int]] = {
    "ddeval audit, 26 classes": (audit, N_IMAGES),
    "peer: cleanlab's filter, 26 classes": (cleanlab, N_IMAGES // 10),
    "near_duplicates, 1,152 numbers": (duplicates, N_EMBEDDED),
    "peer: scikit-learn radius search": (radius_search, N_EMBEDDED // 5),
}


def measure(name: str, n: int) -> dict[str, Any]:
    work = PARTS[name][0](n)
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return {
        "what": name,
        "rows": n,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "found": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, for a quick look")
    parser.add_argument("--only", choices=list(PARTS), default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, round(PARTS[args.only][1] * args.scale))))
        return
    threads = {name: "2" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    found = []
    print(f"{'':38}{'rows':>10}{'wall s':>9}{'CPU s':>8}{'peak GiB':>10}  found")
    for name in PARTS:
        command = [sys.executable, __file__, "--only", name, "--scale", str(args.scale)]
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        found.append(row)
        print(
            f"{name:38}{row['rows']:>10,}{row['seconds']:>9.1f}{row['cpu_seconds']:>8.1f}"
            f"{row['peak_gib']:>10.2f}  {row['found']}",
            flush=True,
        )
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
