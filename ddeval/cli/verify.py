"""`ddeval verify` and `ddeval trace`: can this number be computed again, and where does it come from?"""

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from ddeval.cli import FINDINGS, console
from ddeval.errors import InputError

MOST = 20
"""Differences that are printed; --json prints all."""
WORDS = {True: "equal", False: "DIFFERENT"}
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]
Data = Annotated[Path | None, typer.Option(help="Where the run's manifest lies now, if it was moved.")]


def verify(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Run folder; none: this installation itself.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Compute again what can be computed again; exit 1 where a number differs.

    Without RUN, this installation against golden values known from elsewhere. With it, every number the
    run stores, from its predictions and labels.

    Example: ddeval verify runs/demo-test-f565d329
    """
    if run is None:
        _golden(as_json)
        return
    from ddeval.score.verify import verify as verified

    found = verified(run, manifest=data)
    if as_json:
        console.say_json(
            {
                "run": str(run),
                "labels": found.labels,
                "n_cells": found.n_cells,
                "differences": [difference._asdict() for difference in found.differences],
            }
        )
    else:
        for difference in found.differences[:MOST]:
            console.say(str(difference))
        n = len(found.differences)
        verdict = f"{n:,} differ" if n else "all equal"
        console.say(
            f"{found.n_cells:,} cells under labels {', '.join(found.labels)} computed again: {verdict}"
        )
    if found.differences:
        raise typer.Exit(FINDINGS)


def _golden(as_json: bool) -> None:
    from ddeval.metrics.golden import golden_checks

    checks = golden_checks()
    wrong = checks[~checks["is_equal"].astype(bool)]
    if as_json:
        console.say_json(checks.to_dict("records"))
    else:
        rows = [
            [str(row["check"]), f"{row['value']:.6g}", f"{row['expected']:.6g}", WORDS[bool(row["is_equal"])]]
            for row in checks.to_dict("records")
        ]
        console.say(console.table(rows, header=["golden value", "computed", "expected", ""]))
        console.say(f"\n{len(checks) - len(wrong)} of {len(checks)} golden values hold")
        console.say("next     ddeval verify RUN computes the numbers of a run again")
    if len(wrong):
        raise typer.Exit(FINDINGS)


def trace(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="As in --json: top_1_accuracy.")],
    labels: Annotated[str, typer.Option(help="Version of the labels.")] = "v0",
    subset: Annotated[str, typer.Option(help="all (by image) or cases.")] = "all",
    class_name: Annotated[str | None, typer.Option("--class", help="A number of this class.")] = None,
    as_json: AsJson = False,
) -> None:
    """One number with everything it was made from, down to the files.

    Example: ddeval trace runs/demo-test-f565d329 top_1_accuracy
    """
    chain = _chain(run, metric, labels, subset, class_name)
    if as_json:
        console.say_json(chain)
        return
    number = chain["number"]
    low, high = number["ci_low"], number["ci_high"]
    interval = f" [{low:.6g}, {high:.6g}]" if low == low and high == high else ""  # NaN is not itself
    console.say(f"{metric}{f' of {class_name}' if class_name else ''} = {number['value']:.6g}{interval}")
    for name, text in chain["from"].items():
        console.say(f"  {name:12} {text}")


def _chain(run: Path, metric: str, labels: str, subset: str, class_name: str | None) -> dict[str, Any]:
    from ddeval import io
    from ddeval.report.measures import MEASURES
    from ddeval.score import folder
    from ddeval.score.rows import manifest_path

    facts = folder.read_run(run)
    path = run / f"labels-{labels}" / "metrics.parquet"
    frame, made_from = io.read_parquet(path)
    of_class = frame["class_name"].isna() if class_name is None else frame["class_name"] == class_name
    held = frame[of_class & (frame["subset"] == subset)]
    rows = held[held["metric"] == metric]
    if rows.empty:
        raise InputError(
            str(path),
            f"no {metric} (subset {subset}{f', class {class_name}' if class_name else ''})",
            expected=_nearest(metric, held["metric"].tolist()),
            todo="Names are those of `ddeval score --json`.",
        )
    number = rows.iloc[0].to_dict()
    checkpoint, manifest = facts["checkpoint"], manifest_path(run, facts)
    predictions = run / folder.PREDICTIONS_FILE
    looks = [look for look in folder.read_looks(manifest) if look.get("splits") == facts["splits"]]
    overlay = facts.get("overlays", {}).get(labels, "the manifest's own")
    unit, split = facts["group_unit"], ", ".join(facts["splits"]) or "all"
    settings = [str(facts[name]) for name in ("device", "dtype") if name in facts]
    return {
        "number": number,
        "from": {
            "means": MEASURES[metric].meaning if metric in MEASURES else "see docs/metrics.md",
            "counts": f"{number['n_images']:,} rows, {number['n_groups']:,} {unit}",
            "interval": f"{made_from['n_resamples']:,} draws of {unit}, seed {made_from['seed']}",
            "stored in": f"{path}  sha256 {io.file_sha256(path)}",
            "labels": f"{labels}, {overlay}  sha256 {made_from['labels_sha256']}",
            "manifest": f"{manifest}  sha256 {facts['inputs']['manifest']}",
            "predictions": f"{predictions}  sha256 {io.file_sha256(predictions)}",
            "fingerprint": made_from["predictions"],
            "checkpoint": f"{checkpoint['name']} ({checkpoint['kind']})  sha256 {checkpoint['sha256']}",
            "lies in": checkpoint["folder"],
            "made on": ", ".join([*settings, *(f"{k} {v}" for k, v in facts["versions"].items())]),
            "looks": f"{len(looks)} at {split} so far ({folder.ledger_path(manifest)})",
        },
    }


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return repr(near[0])
    return f"one of {', '.join(known)}" if known else "another subset or class"
