"""`ddeval truth`: accuracy against the vetted reference, with what is still unknown."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from ddeval.cli import console


def truth(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    labels: Annotated[str | None, typer.Option(help="Frozen overlay: v1, a file [the last one].")] = None,
    audit: Annotated[
        list[Path] | None, typer.Option(help="Audit folder(s) the queues came from [RUN/audit].")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Manifest [the run's].")] = None,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Confidence level.")] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, nothing else.")] = False,
) -> None:
    """Accuracy of a run against the vetted reference, estimated for the whole split from what was read.

    Example: ddeval truth runs/gen2a_medsiglip-test-1a2b --labels v1
    """
    from ddeval.cli.auditing import measured

    result = measured(run, labels=labels, audits=audit, data=data, confidence_level=level)
    if as_json:
        console.say_json(result)
    else:
        _say(result)


def _say(result: dict[str, Any]) -> None:
    reference = result["reference"]
    rules = ", ".join(f"{n} {rule}" for rule, n in reference["rules"].items())
    console.say(
        f"{result['run']}  ·  {result['split']}  ·  labels {result['labels']}: {result['n_read']:,} of "
        f"{result['n_cases']:,} cases read by {len(reference['readers'])} ({rules})"
    )
    if result.get("n_gone"):
        console.say(f"left out, as they are no longer in the manifest: {result['n_gone']:,} cases")
    level = f"{100 * result['confidence_level']:g} % interval"
    rows = [
        [
            f"{_metric(row['metric'])}, {row['rule']}, per {row['unit']}",
            console.value(row["value"], "percent"),
            console.interval(row, "percent"),
            f"{console.value(row['worst_case'], 'percent')} to {console.value(row['best_case'], 'percent')}",
        ]
        for row in result["estimates"]
    ]
    header = ["accuracy against the vetted reference", "value", level, "if all others wrong to right"]
    console.say(console.table(rows, header=header))
    if result["without_verdict"]:
        console.say(
            "of cases that readers gave a class; those without one, often the hard ones, can be anything "
            "(last column):"
        )
    for name, share in result["without_verdict"].items():
        console.say(
            f"{name.replace('_', ' ')}: {console.value(share['value'], 'percent')} of cases "
            f"({console.interval(share, 'percent')}; {share['n_cases']} seen)"
        )
    first = result["estimates"][0]  # strict, per image
    _say_reader_error(result["reader_error"], without=console.value(first["uncorrected"], "percent"))
    console.say(f"on the labels as given: {console.value(result['as_given'], 'percent')}")
    console.say(
        f"corrected where vetted (biased: only some labels were checked): "
        f"{console.value(result['corrected_where_vetted'], 'percent')}"
    )
    if result["corrected_without_own_nominations"] is not None:
        console.say(
            "  without the cases this checkpoint nominated itself: "
            f"{console.value(result['corrected_without_own_nominations'], 'percent')}"
        )
    _say_errors(result)


def _say_reader_error(error: dict[str, Any] | None, *, without: str) -> None:
    if error is None:
        console.say(
            "reader error: unknown, no case got a class from two readers; it is not inside the intervals"
        )
        return
    differ, miss = (console.value(error[name], "percent") for name in ("disagreement", "miss"))
    said = f"two readers name different classes on {differ} of {error['n_pairs']} cases"
    if not math.isfinite(error["miss"]):
        console.say(
            f"reader error: unknown; {said}, more than equally good readers can. It is not inside the "
            "intervals. Look at each reader: ddeval audit page AUDIT --batch NAME"
        )
        return
    console.say(
        f"reader error: {said}; the consensus calls about {miss} of right answers wrong: strict values and "
        f"intervals are corrected for it (top-1 per image without: {without}), lenient ones are not"
    )


def _say_errors(result: dict[str, Any]) -> None:
    left = result["errors_left"]
    if left["share"] is not None:
        console.say(
            f"wrong labels: {console.value(left['share'], 'percent')} of cases "
            f"({console.interval(left, 'percent')}); {left['n_found']} found, about {left['left']:,.0f} left "
            f"({left['left_low']:,.0f} to {left['left_high']:,.0f})"
        )
    for row in result["precision_at_k"][-1:]:
        console.say(
            f"of the {row['k']} most doubtful that were read {row['n_errors']} are wrong "
            f"({console.interval(row, 'percent')} %)"
        )
    stop = result["stop"]
    if stop["is_enough"]:
        console.say(
            f"stop rule: of the last {stop['n_window']} ranked so few are wrong that "
            "more ranked cases will find little"
        )


def _metric(name: str) -> str:
    return ("open set " if name.startswith("open_") else "") + "top-1"
