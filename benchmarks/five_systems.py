"""The five systems of Round 1 at reduced width on the embedded data set (SYNTHETIC), compared in one page.

    python benchmarks/five_systems.py WORK [--only NAME ...] [--json FILE]

Each is trained from its own shipped config by `ddeval train`, changed in what its size asks for alone:
the tiny backbone of its family, few epochs, higher rates; then `ddeval score` and, for all, `ddeval compare`
against the prior production with a gate. What is there is not made again.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from ddeval.data.demo import make_demo

TINY = {
    "gen2a_port": "resnet_tiny",
    "convnextv2_base": "convnextv2_tiny",
    "medsiglip_frozen": "siglip_tiny",
    "medsiglip_standalone": "siglip_tiny",
    "gen2a_medsiglip": "siglip_tiny",
}
N_EPOCHS = 12
EPOCHS = {"medsiglip_frozen": 60}  # of its head on stored embeddings: seconds
RULED = ("gen2a_port", "gen2a_medsiglip")
RISK = 0.4
"""Of the deferral rules: with an eighth of the labels wrong, 183 photographs show no smaller one."""
CHANGES = (
    "model.weights=random",
    "model.image_size=null",
    "model.questionnaire_widths=[64]",
    "train.batch_size=64",
    "train.warmup_epochs=1",
    "train.learning_rate=3.0e-3",
    "train.head_learning_rate=3.0e-3",
    "train.other_ratio=0.08",
    "train.cpu_threads=1",
)
GATE = """criteria:
  - {name: no worse at cancers, metric: malignant_right, kind: not_worse, bound: 0.05}
  - {name: better than production, metric: top_1_accuracy, kind: better, bound: 0.0}
  - {name: honest confidence, metric: ece, kind: at_most, bound: 0.10}
  - {name: fast enough, metric: latency_p95_ms, kind: at_most, bound: 250}
"""


def said(*arguments: object) -> str:
    """What a command of ddeval put on stdout; exit code 1 is a failed gate, not an error."""
    found = subprocess.run(
        [sys.executable, "-m", "ddeval", *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=False
    )
    if found.returncode > 1:
        raise SystemExit(f"ddeval {arguments[0]} ended with {found.returncode}")
    return found.stdout


def trained_and_scored(work: Path, name: str, manifest: Path) -> dict[str, object]:
    """The run of one system and what it took."""
    epochs = EPOCHS.get(name, N_EPOCHS)
    changes = [*CHANGES, f"model.backbone={TINY[name]}", f"train.epochs={epochs}"]
    changes.append(f"train.frozen_epochs={epochs if name in EPOCHS else 1 if 'port' in name else 0}")
    flags = [flag for change in changes for flag in ("--set", change)]
    began, run = time.monotonic(), work / "runs" / name
    if not (work / name / "training" / "result.json").is_file():
        said("train", name, "--data", manifest, "--out", work / name, *flags)
    if not (run / "labels-v0" / "metrics.json").is_file():
        said("score", work / name, "--data", manifest, "--out", run)
    numbers = json.loads((run / "labels-v0" / "metrics.json").read_text())["metrics"]
    top_1 = numbers["top_1_accuracy"]
    seconds = time.monotonic() - began
    interval = f"[{top_1['ci_low']:.3f}, {top_1['ci_high']:.3f}]"
    print(f"{name:22} top-1 {top_1['value']:.3f} {interval}  {seconds:.0f} s", flush=True)
    return {"run": name, "seconds": seconds, "top_1_accuracy": top_1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--only", nargs="*", choices=list(TINY), help="Train and score these, compare nothing."
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = options.work.resolve()
    manifest = work / "data" / "manifest.csv"
    if not manifest.is_file():
        make_demo(work / "data")
    rows = [trained_and_scored(work, name, manifest) for name in options.only or TINY]
    if options.only:
        return
    (work / "gate.yaml").write_text(GATE)
    rules = []
    for name in RULED:
        rules += ["--abstain", work / f"{name}-abstain" / "abstain.json"]
        said("abstain", work / "runs" / name, "--risk", RISK, "--out", rules[-1])
    page = work / "five.html"
    told = json.loads(
        said("compare", *(work / "runs" / name for name in TINY), "--baseline", "gen2a_port", "--gate",
             work / "gate.yaml", *rules, "--ensemble", "convnextv2_base+gen2a_medsiglip", "--out", page,
             "--json")
    )  # fmt: skip
    for row in told["differences"]:
        if (row["metric"], row["subset"]) == ("top_1_accuracy", "all"):
            print(
                f"{row['run']:32} top-1 {100 * row['difference']:+5.1f} points "
                f"[{100 * row['ci_low']:+.1f}, {100 * row['ci_high']:+.1f}], Holm p {row['p_holm']:.3f}"
            )
    for row in told["harm_deferring"]:
        if row["outcome"] != "right" and row["run"] in RULED:
            print(
                f"{row['run']:32} {row['group']}, under its rule: {row['outcome']} {row['n_images']} of "
                f"{row['n_in_group']}"
            )
    best = [b["run"] for b in told["best"] if b["metric"] == "top_1_accuracy" and b["subset"] == "all"
            and b["is_in_best_set"]]  # fmt: skip
    print(f"not told from the best: {', '.join(best)}\ngate: {told['gate']['sentence']}\npage: {page}")
    if options.json:
        options.json.write_text(json.dumps({"systems": rows, "comparison": told}, indent=1))


if __name__ == "__main__":
    main()
