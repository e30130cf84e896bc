"""`ddeval compare`: runs side by side, in pairs, against a baseline and a gate."""

from pathlib import Path
from typing import Annotated

import typer

from ddeval.cli import FINDINGS, console
from ddeval.cli.options import Conditions, Prevalence, shares, today
from ddeval.project import output_folder


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    baseline: Annotated[
        str | None, typer.Option(help="Run every other is compared with [the first].")
    ] = None,
    gate: Annotated[Path | None, typer.Option(help="Criteria written before the run (YAML).")] = None,
    candidate: Annotated[str | None, typer.Option(help="Run the gate is asked of [the last].")] = None,
    bench: Annotated[
        list[Path] | None, typer.Option(help="JSON of ddeval bench, for a latency; may be repeated.")
    ] = None,
    abstain: Annotated[
        list[Path] | None,
        typer.Option(help="File of ddeval abstain: outcomes under its rule; may be repeated, one a run."),
    ] = None,
    ensemble: Annotated[
        list[str] | None, typer.Option(help="A+B: these runs' mean as a further row; may be repeated.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Label overlay: v0 (the manifest's), v1, a file.")
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare the images all runs share.")] = False,
    audit: Annotated[
        list[Path] | None,
        typer.Option(help="Audit folder whose queue was read; may be repeated [RUN/audit]."),
    ] = None,
    reported: Annotated[
        Path | None, typer.Option(help="CSV of typed-in numbers: run, metric, value, notes.")
    ] = None,
    conditions: Conditions = None,
    prevalence: Prevalence = None,
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file, its tables in a folder of that name [reports/DATE-compare-BASELINE]."),
    ] = None,
    photos: Annotated[bool, typer.Option("--photos", help="Put patients' photographs in.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    n_resamples: Annotated[int, typer.Option(min=2, help="Bootstrap draws.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, nothing else.")] = False,
) -> None:
    """Compare runs on the same images: paired differences, the set of the best, and the gate's answer.

    Exit code 1 when the gate fails.

    Example: ddeval compare runs/gen2a_port-test-1a2b runs/gen2a_medsiglip-test-1a2b --gate gate.yaml
    """
    from ddeval.report.compare_page import write_compare_report
    from ddeval.score import comparison_folder

    asked = comparison_folder.Asked(
        tuple(runs), baseline, labels, common, gate, candidate, tuple(bench or []), tuple(abstain or []),
        tuple(dict.fromkeys(ensemble or [])), reported,
        conditions=conditions, prevalence=shares(prevalence), seed=seed, n_resamples=n_resamples,
        audits=tuple(audit) if audit else None,
    )  # fmt: skip
    date, reports = today(), output_folder("reports")
    page = None if out is None else comparison_folder.page_of(out)
    if page is not None:
        comparison_folder.check_place(page.with_suffix(""))
    made = comparison_folder.compared(asked, note=console.note)
    if page is None:
        baseline = str(made.facts["baseline"]).strip("/").replace("/", "-")
        page = reports / f"{date}-compare-{baseline}.html"
    result = comparison_folder.write(made, page.with_suffix(""), note=console.note)
    write_compare_report(page.with_suffix(""), page, date=date, photos=photos)
    if as_json:
        console.say_json(result | {"report": str(page)})
    else:
        _say(result, page)
    raise typer.Exit(FINDINGS if result["gate"] and result["gate"]["answer"] == "fail" else 0)


def _say(result: dict[str, object], page: Path) -> None:
    """The differences of the headline metrics as a table."""
    base = result["baseline"]
    rows = []
    for row in result["differences"]:  # type: ignore[attr-defined]
        if row["subset"] == "all" and row["metric"] in (
            "top_1_accuracy",
            "top_3_accuracy",
            "balanced_accuracy",
        ):
            name = row["metric"].replace("_accuracy", "").replace("_", "-")
            p_value = console.value(row["p_holm"], "probability")
            rows.append([row["run"], name, *console.difference(row), p_value])
    console.say(f"{result['n_images']:,} images  ·  labels {result['labels']}  ·  against {base}")
    console.say(console.table(rows, header=["", "", "points", "95 % interval", "p, Holm"]))
    for row in result["parity"] if len(result["parity"]) == 1 else []:  # type: ignore[attr-defined, arg-type]
        changed = row["n_deferrals_changed"]
        deferrals = "" if changed is None or changed != changed else f", {changed:,} deferrals changed"
        console.say(
            f"parity   largest difference of a probability {row['largest_difference']:.2g}, "
            f"{row['n_flips']:,} of {row['n_images']:,} answers changed{deferrals}"
        )
    for row in result.get("ensembles", []):  # type: ignore[attr-defined]
        if row["metric"] == "top_1_accuracy":
            points, interval = console.difference(row)
            console.say(
                f"ensemble {row['run']} over {row['member']}: top-1 {points} points "
                f"({interval}) at {row['n_members']} times the serving cost"
            )
    gate = result["gate"]
    if gate:
        console.say(f"gate     {gate['answer']}: {gate['sentence']}")  # type: ignore[index]
    console.say(f"\nreport   {page}")
