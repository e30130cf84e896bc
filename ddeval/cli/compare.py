"""`ddeval compare`: runs side by side, in pairs, against a baseline and a gate."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ddeval.cli import console
from ddeval.project import find_project


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    baseline: Annotated[
        str | None, typer.Option(help="Run every other is compared with [the first].")
    ] = None,
    gate: Annotated[Path | None, typer.Option(help="Criteria written before the run (YAML).")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Label overlay: v0 (the manifest's), v1, a file.")
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare the images all runs share.")] = False,
    out: Annotated[Path | None, typer.Option(help="HTML file [reports/DATE-compare-BASELINE.html].")] = None,
    photos: Annotated[bool, typer.Option("--photos", help="Put patients' photographs in.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    n_resamples: Annotated[int, typer.Option(min=2, help="Bootstrap draws.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, nothing else.")] = False,
) -> None:
    """Compare runs on the same images: paired differences, the set of the best, and the gate's answer.

    Exit code 1 when the gate fails.

    Example: ddeval compare runs/gen2a_port-test-1a2b runs/gen2a_medsiglip-test-1a2b --gate gate.yaml
    """
    from ddeval.io import file_sha256
    from ddeval.report.compare_page import write_compare_report
    from ddeval.score import comparison, folder

    joined = comparison.join(runs, labels=labels, is_common=common)
    for line in joined.notes:
        console.note(line)
    names = dict(zip([str(run) for run in runs], joined.names, strict=True))
    base = names.get(str(baseline), str(baseline)) if baseline else joined.names[0]
    found = comparison.compared(joined, baseline=base, seed=seed, n_resamples=n_resamples)
    others = [name for name in joined.names if name != base]

    now = datetime.now(UTC)
    answer = None
    if gate is not None:
        criteria = comparison.read_gate(gate)
        answer = comparison.gate_answers(criteria, found, run=others[-1], baseline=base, where=str(gate))
        answer["sha256"] = file_sha256(gate)
        manifest = Path(next(iter(joined.facts.values()))["manifest"]["path"])
        answer["first_look"] = folder.first_look(
            manifest,
            gate_sha256=answer["sha256"],
            look={"run": ", ".join(joined.names), "labels": joined.version},
        )

    project = find_project()
    page = out or (project.reports if project else Path("reports")) / f"{now:%Y-%m-%d}-compare-{base}.html"
    result = comparison.write_comparison(page.with_suffix(""), joined, found, baseline=base, gate=answer)
    write_compare_report(page.with_suffix(""), page, date=f"{now:%Y-%m-%d}", photos=photos)
    if as_json:
        console.say_json(result | {"report": str(page)})
    else:
        _say(result, page)
    raise typer.Exit(1 if answer is not None and answer["answer"] == "fail" else 0)


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
            points = [f"{100 * row[key]:+.1f}" for key in ("difference", "ci_low", "ci_high")]
            name = row["metric"].replace("_accuracy", "").replace("_", "-")
            rows.append([row["run"], name, points[0], f"{points[1]} – {points[2]}", f"{row['p_holm']:.3f}"])
    console.say(f"{result['n_images']:,} images  ·  labels {result['labels']}  ·  against {base}")
    console.say(console.table(rows, header=["", "", "points", "95 % interval", "p, Holm"]))
    gate = result["gate"]
    if gate:
        console.say(f"gate     {gate['answer']}: {gate['sentence']}")  # type: ignore[index]
    console.say(f"\nreport   {page}")
