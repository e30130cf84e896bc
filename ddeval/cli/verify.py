"""`ddeval verify` and `ddeval trace`: can this number be computed again, and where does it come from?"""

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddeval.cli import FINDINGS, console
from ddeval.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from ddeval.score.verify import Verification

MOST = 20
"""Differences that are printed; --json prints all."""
WORDS = {True: "equal", False: "DIFFERENT"}
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]
Data = Annotated[Path | None, typer.Option(help="Where the run's manifest lies now, if it was moved.")]


def verify(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN|REPORT]", help="Run, comparison or page; none: the installation."),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Compute again what can be computed again; exit 1 where a number differs.

    Without RUN, this installation against golden values known from elsewhere. With RUN (or a comparison's
    folder), every number it stores, from predictions, labels and readings. With a page (HTML) it is drawn
    again from its tables too, and each text that differs is named.

    Example: ddeval verify runs/demo-test-f565d329
    """
    if run is None:
        _golden(as_json)
        return
    from ddeval.score.comparison_folder import COMPARISON_FILE
    from ddeval.score.verify import verify as verified
    from ddeval.score.verify_comparison import verify_comparison

    folder, texts = _drawn(run, data) if run.suffix == ".html" else (run, [])
    is_comparison = (folder / COMPARISON_FILE).is_file()
    found = verify_comparison(folder) if is_comparison else verified(folder, manifest=data)
    found = _with_questions(_with_readings(found, folder, data), folder, data)
    if as_json:
        console.say_json(
            {
                "run": str(run),
                "labels": found.labels,
                "n_cells": found.n_cells,
                "differences": [difference._asdict() for difference in found.differences],
                "texts": texts,
            }
        )
    else:
        for line in [*texts, *map(str, found.differences)][:MOST]:
            console.say(line)
        n = len(found.differences)
        if run.suffix == ".html":
            drawn = f"{len(texts):,} texts differ" if texts else "equal"
            console.say(f"{run} drawn again from {folder}: {drawn}")
        verdict = f"{n:,} differ" if n else "all equal"
        console.say(
            f"{found.n_cells:,} cells under labels {', '.join(found.labels)} computed again: {verdict}"
        )
    if found.differences or texts:
        raise typer.Exit(FINDINGS)


def _with_readings(found: "Verification", run: Path, data: Path | None) -> "Verification":
    """What was found, and what `ddeval truth` kept in the run that the readings do not say again."""
    from ddeval import io
    from ddeval.cli.auditing import TRUTH_FILE, measured
    from ddeval.score.verify import leaves, value_differences

    for path in sorted(run.glob(f"labels-*/{TRUTH_FILE}")):
        stored = io.read_json(path)
        told = stored["made_from"]
        labels = told["labels"] or stored["labels"]
        again = measured(
            run, labels=labels, audits=[Path(audit) for audit in told["audits"]], data=data,
            overlays=Path(told["overlays"]), confidence_level=stored["confidence_level"], is_kept=False,
        )  # fmt: skip
        computed = json.loads(io.to_json(again))
        differences = value_differences(f"{path.parent.name}/{path.name}", stored, computed)
        found = found._replace(
            n_cells=found.n_cells + sum(1 for _ in leaves(computed)),
            differences=(*found.differences, *differences),
        )
    return found


def _with_questions(found: "Verification", run: Path, data: Path | None) -> "Verification":
    """What was found, and what `ddeval ablate` kept in the run that its checkpoint does not say again.

    On another processor or torch an answer that is nearly a tie may turn: accuracies lost may then lie a
    hundredth of a point apart, and p-values are not compared. Without the checkpoint nothing can be.
    """
    import pandas as pd

    from ddeval import io
    from ddeval.score.verify import cell_differences

    for path in sorted(run.glob("questions-*.csv")):
        settings = path.with_suffix(".json")
        try:
            if not settings.is_file():
                raise InputError(str(settings), "no such file", expected="how it was made", todo="")
            from ddeval.models.checkpoint import load_checkpoint
            from ddeval.score.ablation import ablate, machine

            told = io.read_json(settings)["made_from"]
            checkpoint = load_checkpoint(told["checkpoint"])
        except (InputError, ImportError) as error:
            console.note(f"{path.name} was not computed again, make it with ddeval ablate: {error}")
            continue
        again = ablate(
            run, checkpoint, labels=told["labels"], manifest=data, seed=told["seed"],
            n_resamples=told["n_resamples"],
        ).table  # fmt: skip
        stored = io.read_csv(path)
        for column in stored.columns.intersection(again.select_dtypes("number").columns):
            stored[column] = pd.to_numeric(stored[column], errors="coerce")
        if told["machine"] != machine():
            console.note(f"{path.name} was made on {told['machine']}: held to a hundredth of a point")
            stored, again = (frame.drop(columns="p_holm") for frame in (stored, again))
            for column in ("lost", "ci_low", "ci_high"):
                is_near = (stored[column] - again[column]).abs() <= 1e-4
                stored[column] = stored[column].where(~is_near, again[column])
        found = found._replace(
            n_cells=found.n_cells + again.size,
            differences=(*found.differences, *cell_differences(path.name, stored, again)),
        )
    return found


def _drawn(page: Path, data: Path | None) -> tuple[Path, list[str]]:
    """The folder a page was drawn from, and every text of the page that is not what its tables say."""
    from ddeval.project import find_project
    from ddeval.report.redraw import changes, comparison_changes, provenance
    from ddeval.score import folder
    from ddeval.score.rows import manifest_path

    told = provenance(page)
    if told["page"] == "comparison":
        tables = page.parent / told["comparison"]
        return tables, comparison_changes(page, tables)
    project = find_project()
    runs = [page.parent, *([project.runs] if project else []), Path("runs"), page.parent.parent / "runs"]
    places = [page.parent] if page.parent.name == told["run"] else [place / told["run"] for place in runs]
    run = next((place for place in places if folder.is_run(place)), None)
    if run is None:
        raise InputError(
            str(page),
            f"drawn from the run {told['run']}, which is not there",
            expected=f"it in {', '.join(str(place.parent) for place in places)}",
            todo="Call ddeval verify from the folder that holds runs/.",
        )
    looks = folder.read_looks(data or manifest_path(run, folder.read_run(run)))
    return run, changes(page, run, looks=looks)


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
    subset: Annotated[str, typer.Option(help="all (by image), cases, or deferring (under a rule).")] = "all",
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
    if not path.is_file():
        there = sorted(
            found.parent.name.removeprefix("labels-") for found in run.glob("labels-*/metrics.parquet")
        )
        raise InputError(
            f"--labels {labels}", f"no numbers of {run} under it",
            expected=f"one of {', '.join(there)}" if there else "a run with numbers",
            todo=f"Make them with: ddeval score {run} --labels {labels}.",
        )  # fmt: skip
    frame, made_from = io.read_parquet(path)
    of_class = frame["class_name"].isna() if class_name is None else frame["class_name"] == class_name
    held = frame[of_class & (frame["subset"] == subset)]
    rows = held[held["metric"] == metric]
    if rows.empty:
        raise InputError(
            str(path),
            f"no {metric} (subset {subset}{f', class {class_name}' if class_name else ''})",
            expected=_elsewhere(frame, metric, class_name) or _nearest(metric, held["metric"].tolist()),
            todo="Names are those of `ddeval score --json`.",
        )
    number = rows.iloc[0].to_dict()
    checkpoint, manifest = facts["checkpoint"], manifest_path(run, facts)
    predictions = run / folder.PREDICTIONS_FILE
    if not predictions.is_file():
        raise InputError(
            str(run), f"no {predictions.name}", expected="a run of its own",
            todo="Trace the run that was compared.",
        )  # fmt: skip
    looks = [look for look in folder.read_looks(manifest) if look.get("splits") == facts["splits"]]
    overlay = facts.get("overlays", {}).get(labels, "the manifest's own")
    unit, split = facts["group_unit"], ", ".join(facts["splits"]) or "all"
    settings = [str(facts[name]) for name in ("device", "dtype") if name in facts]
    rule = (
        {"rule": f"{facts['abstain']}  sha256 {made_from['abstain_sha256']}"} if subset == "deferring" else {}
    )
    return {
        "number": number,
        "from": {
            "means": MEASURES[metric].meaning if metric in MEASURES else "see docs/metrics.md",
            "counts": f"{number['n_images']:,} rows, {number['n_groups']:,} {unit}",
            "interval": f"{made_from['n_resamples']:,} draws of {unit}, seed {made_from['seed']}",
            "stored in": f"{path}  sha256 {io.file_sha256(path)}",
            "labels": f"{labels}, {overlay}  sha256 {made_from['labels_sha256']}",
            **rule,
            "manifest": f"{manifest}  sha256 {facts['inputs']['manifest']}",
            "predictions": f"{predictions}  sha256 {io.file_sha256(predictions)}",
            "fingerprint": made_from["predictions"],
            "checkpoint": f"{checkpoint['name']} ({checkpoint['kind']})  sha256 {checkpoint['sha256']}",
            "lies in": checkpoint["folder"],
            "made on": ", ".join([*settings, *(f"{k} {v}" for k, v in facts["versions"].items())]),
            "looks": f"{len(looks)} at {split} so far ({folder.ledger_path(manifest)})",
        },
    }


def _elsewhere(frame: "pd.DataFrame", metric: str, class_name: str | None) -> str:
    """Where a metric that is there in another subset or class stands; nothing where it is not."""
    of = frame[frame["metric"] == metric]
    classes = list(dict.fromkeys(of["class_name"].dropna()))
    if classes and class_name not in classes:
        return f"--class one of {', '.join(map(repr, classes))}"
    return f"--subset one of {', '.join(dict.fromkeys(of['subset']))}" if len(of) else ""


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return repr(near[0])
    return f"one of {', '.join(known)}" if known else "another subset or class"
