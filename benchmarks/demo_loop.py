"""Does the loop gain, and does its estimate hold what was planted? Several seeds, and queues drawn again.

    python benchmarks/demo_loop.py WORK [--seeds 0 1 2 3 4] [--queues 20] [--json FILE]

Per seed (of data, training, queues and readers) the whole loop as `ddeval demo` runs it: planted accuracy
of each system on the test split before and after. Then, on the systems of the first seed, the test queue is
drawn again with other seeds and read by other readers: how often does the interval hold the planted value?
What is there is not made again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from ddeval.cli.auditing import audit_runs
from ddeval.cli.loop import SYSTEMS, VETTED, Plan, closed_loop, three_ways, vet


def gains(work: Path, seeds: list[int], jobs: int) -> list[dict[str, Any]]:
    """A row a seed and system."""
    rows = []
    for seed in seeds:
        began = time.monotonic()
        result = closed_loop(work / f"seed-{seed}", Plan(seed=seed), date="2026-01-01", jobs=jobs)
        by_run = {row["run"]: row for row in result["systems"]}
        for system in SYSTEMS:
            before, after = by_run[system], by_run[system + VETTED]
            rows.append(
                {
                    "seed": seed,
                    "system": system,
                    "as_given": before["as_given"]["value"],
                    "vetted": before["vetted"],
                    "before": before["planted"]["value"],
                    "after": after["planted"]["value"],
                    "holds": [row["interval_holds_planted"] for row in (before, after)],
                    "train_queue": result["queues"][1],
                    "seconds": time.monotonic() - began,
                }
            )
            row = rows[-1]
            print(
                f"seed {seed} {system:7} as given {100 * row['as_given']:5.1f}  vetted "
                f"{100 * row['vetted']['value']:5.1f} [{100 * row['vetted']['ci_low']:.1f}, "
                f"{100 * row['vetted']['ci_high']:.1f}]  planted {100 * row['before']:5.1f} -> "
                f"{100 * row['after']:5.1f} ({100 * (row['after'] - row['before']):+.1f})  "
                f"{row['seconds']:.0f} s",
                flush=True,
            )
    return rows


def redrawn(loop: Path, n_queues: int) -> list[dict[str, Any]]:
    """A row a queue and system: the estimate, and whether its interval holds the planted value."""
    manifest = loop / "data" / "manifest.csv"
    runs = [loop / "runs" / name for name in SYSTEMS]
    rows = []
    for seed in range(101, 101 + n_queues):
        plan, folder = Plan(seed=seed), loop / "redrawn" / str(seed)
        audited = audit_runs(
            runs, n_queue=plan.n_test_queue, seed=seed, with_pictures=False, out=folder / "audit"
        )
        labels = vet(manifest, audited.folder, "test", folder, plan)
        rows += [{"queue": seed, **three_ways(run, manifest, labels, audited.folder, plan)} for run in runs]
        held = {name: sum(r["interval_holds_planted"] for r in rows if r["run"] == name) for name in SYSTEMS}
        print(f"queue {seed - 100}: held so far {held}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--queues", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    loops = gains(options.work, options.seeds, options.jobs)
    for system in SYSTEMS:
        gain = np.array([row["after"] - row["before"] for row in loops if row["system"] == system])
        if len(gain):
            print(
                f"{system}: better after in {(gain > 0).sum()} of {len(gain)} seeds, mean "
                f"{100 * gain.mean():+.2f} points"
            )
    queues = redrawn(options.work / f"seed-{options.seeds[0]}", options.queues) if options.queues else []
    for system in SYSTEMS if queues else ():
        of = [row for row in queues if row["run"] == system]
        n_held = sum(row["interval_holds_planted"] for row in of)
        bias = np.mean([row["vetted"]["value"] - row["planted"]["value"] for row in of])
        width = np.mean([row["vetted"]["ci_high"] - row["vetted"]["ci_low"] for row in of])
        print(
            f"{system}: interval holds the planted value in {n_held} of {len(of)} queues, mean error "
            f"{100 * bias:+.2f} points, mean width {100 * width:.1f}"
        )
    if options.json:
        options.json.write_text(json.dumps({"loops": loops, "queues": queues}, indent=1))


if __name__ == "__main__":
    main()
