"""`ddeval ablate`: what each question of the questionnaire is worth to a scored model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ddeval.cli import console


def ablate(
    run: Annotated[Path, typer.Argument(help="Run folder of a model that reads a questionnaire.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Its checkpoint [the folder it was scored from].")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Label overlay: v0 (the manifest's), v1, a file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file [RUN/questions-LABELS.csv].")] = None,
    show: Annotated[int, typer.Option(min=1, help="Questions shown in the terminal.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of permutations and resamples.")] = 0,
    n_resamples: Annotated[int, typer.Option(min=2, help="Bootstrap draws.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON, nothing else.")] = False,
) -> None:
    """Accuracy lost without each question: its answers permuted between cases, or all unknown.

    The head alone is run again, on the image embeddings that the run holds: seconds, on the CPU.

    Example: ddeval ablate runs/gen2a_medsiglip-test-1a2b
    """
    from ddeval.io import write_csv, write_json
    from ddeval.models.checkpoint import load_checkpoint
    from ddeval.score.ablation import ablate as ablated
    from ddeval.score.ablation import machine
    from ddeval.score.folder import read_run

    made_by = read_run(run)["checkpoint"]
    source = checkpoint or str(made_by.get("folder") or made_by["name"])
    found = ablated(run, load_checkpoint(source), labels=labels, seed=seed, n_resamples=n_resamples)
    path = out or run / f"questions-{found.version}.csv"
    write_csv(path, found.table)
    if out is None:  # what ddeval verify makes it again from
        made_from = {
            "checkpoint": str(Path(source).resolve()) if Path(source).exists() else source,
            "labels": str(found.overlay.resolve()) if found.overlay else "v0",
            "seed": seed, "n_resamples": n_resamples, "machine": machine(),
        }  # fmt: skip
        write_json(path.with_suffix(".json"), {"made_from": made_from})
    if as_json:
        console.say_json(
            {"table": found.table.to_dict("records"), "file": str(path), "labels": found.version}
        )
        return
    top_1 = found.table[found.table["metric"] == "top_1_accuracy"].to_dict("records")
    by_field: dict[str, dict[str, dict[Any, Any]]] = {}
    for row in top_1:
        by_field.setdefault(row["field"], {})[row["how"]] = row
    rows = [
        [
            field,
            f"{ways['permuted']['n_answered']:,}",
            _lost(ways["permuted"]),
            console.value(ways["permuted"]["p_holm"], "probability"),
            _lost(ways["unknown"]),
        ]
        for field, ways in list(by_field.items())[: show + 1]
    ]
    header = ["top-1 lost, points", "answered", "permuted", "p, Holm", "unknown"]
    console.say(console.table(rows, header=header))
    console.say(
        f"\n{found.n_images:,} images  ·  labels {found.version}  ·  nothing changed: the run's logits to "
        f"{found.largest_difference:.1g}\ntable    {path}"
    )


def _lost(row: dict[Any, Any]) -> str:
    points, interval = console.difference(row | {"difference": row["lost"]})
    return f"{points} ({interval})" if interval else points
