"""`ddeval demo`: the whole loop on the embedded data set, and what vetting was worth."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ddeval.cli import console
from ddeval.cli.options import today


def demo(
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of data, training, queues and readers.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Training runs side by side.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, nothing else.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
) -> None:
    """Score, audit, vet (simulated blind readers), train again and score again, on drawn photographs.

    Needs no data and no network. The truth is planted, so every estimate stands beside what it estimates.

    Example: ddeval demo --out demo
    """
    from ddeval.cli.loop import Plan, closed_loop

    plan = Plan(seed=seed)
    if dry_run:
        console.note(
            f"would draw {plan.n_patients:,} patients, train two systems twice and {plan.n_folds} folds, and "
            f"let {plan.n_readers} simulated readers read {plan.n_test_queue} cases of test and "
            f"{plan.n_train_queue} of train -> {out}"
        )
        return
    result = closed_loop(out, plan, date=today(), jobs=jobs, note=console.note)
    if as_json:
        console.say_json(result)
    else:
        _say(result, out)


def _say(result: dict[str, Any], out: Path) -> None:
    rows = [
        [
            row["run"],
            console.value(row["as_given"]["value"], "percent"),
            console.interval(row["as_given"], "percent"),
            console.value(row["vetted"]["value"], "percent"),
            console.interval(row["vetted"], "percent"),
            console.value(row["planted"]["value"], "percent"),
        ]
        for row in result["systems"]
    ]
    header = ["top-1 (SYNTHETIC)", "as given", "95 %", "vetted", "95 %", "planted truth"]
    console.say(console.table(rows, header=header))
    for queue in result["queues"]:
        console.say(
            f"{queue['split']:6} queue, for {queue['use']}: {queue['n_cases']} cases read, "
            f"{queue['n_relabelled']} relabelled, {queue['n_relabelled_rightly']} of them rightly; "
            f"{queue['n_wrong_read']} of {queue['n_wrong_planted']} planted errors were in it"
        )
    console.say(f"\nreport   {out / result['report']}")
    console.say("next     ddeval init DATA   ·   the same with your own tables")
