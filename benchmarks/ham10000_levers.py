"""Does a loss for rare classes pay? HAM10000: one system plain, with focal loss, with logit adjustment.

    ddeval data import ham10000 HAM10000 --out ham10000.csv --split train=0.7,val=0.1,test=0.2
    python benchmarks/ham10000_levers.py ham10000.csv WORK --images HAM10000 [--epochs 120] [--json FILE]

The system of configs/ham10000.yaml with its own lever (class-balanced drawing) taken out; each arm differs
from `plain` in one line. Same split, same seed, same epochs. Differences are paired, with intervals over
lesions (`ddeval compare`'s numbers); they say nothing of another training seed.
"""

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddeval.config import find_config, read_config
from ddeval.score.comparison import compared
from ddeval.score.joined import join

ARMS = {
    "plain": {},
    "focal": {"focal_gamma": 2.0},
    "adjusted": {"logit_adjustment": 1.0},
    "balanced": {"class_balance": 1.0},
}
SHOWN = ("top_1_accuracy", "balanced_accuracy", "macro_f1", "nll")


def fit(arm: str, manifest: Path, work: Path, images: Path, options: dict[str, Any]) -> Path:
    """Train one arm, score it on the test split, and give its run folder."""
    from ddeval.models.checkpoint import load_checkpoint
    from ddeval.score.run import Settings, score
    from ddeval.train.loop import train

    path = find_config("ham10000")
    if path is None:
        raise SystemExit("no config ham10000")
    knobs = {"class_balance": 0.0, "seed": options["seed"], "epochs": options["epochs"], **ARMS[arm]}
    changes = [f"train.{key}={value}" for key, value in knobs.items()]
    changes += [f"train.cpu_threads={options['threads']}", f"train.workers={options['threads']}"]
    config = read_config(path, changes=changes)
    folder = work / f"{arm}-{options['seed']}"
    train(
        config, manifest, folder / "artefact", image_roots=[images], note=lambda line: print(f"{arm}: {line}")
    )
    checkpoint = replace(load_checkpoint(str(folder / "artefact")), name=arm)
    return score(
        checkpoint, manifest, settings=Settings(batch_size=256), out=folder / "run", image_roots=[images],
        workers=options["threads"],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, a training run")
    parser.add_argument("--processes", type=int, default=1, help="training runs at a time")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = {key: getattr(options, key) for key in ("epochs", "seed", "threads")}
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        asked = [
            pool.submit(fit, arm, options.manifest, options.work, options.images, settings)
            for arm in options.arms
        ]
        runs = [one.result() for one in asked]
    found = compared(join(runs), baseline=options.arms[0])
    values = found.values[(found.values["subset"] == "all") & found.values["metric"].isin(SHOWN)]
    gains = found.differences[
        (found.differences["subset"] == "all") & found.differences["metric"].isin(SHOWN)
    ]
    of = f"seed {options.seed}, {options.epochs} epochs"
    print(f"{found.n_images} test images, {found.n_groups} lesions, {of}")
    for row in values.to_dict("records"):
        said = f"{row['value']:8.4f} [{row['ci_low']:.4f}, {row['ci_high']:.4f}]"
        print(f"{row['run']:10}{row['metric']:20}{said}")
    print(f"\nagainst {options.arms[0]}, paired")
    for row in gains.to_dict("records"):
        said = f"{row['difference']:+8.4f} [{row['ci_low']:+.4f}, {row['ci_high']:+.4f}]"
        print(f"{row['run']:10}{row['metric']:20}{said}  p (Holm) {row['p_holm']:.4f}")
    if options.json:
        result = {"values": values.to_dict("records"), "differences": gains.to_dict("records"), **settings}
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
