"""`ddeval lever`: are the next readings better spent on old labels or on new cases?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddeval.cli import console

if TYPE_CHECKING:
    from ddeval.train.lever import Lever

NAMES = {
    "labels": "vet labels there are",
    "data": "label more cases",
    "labels - data": "difference",
}
"""Lever -> what one would do."""


def lever(
    run: Annotated[Path, typer.Argument(help="Run of every split: ddeval score CHECKPOINT --split all.")],
    labels: Annotated[
        str | None, typer.Option(help="Vetted labels of train: v1, a file [none: only more data is judged].")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Vetted labels of the split that judges: v1, a file [as given].")
    ] = None,
    judged: Annotated[str, typer.Option(help="The split that judges.")] = "test",
    readings_a_case: Annotated[
        float, typer.Option(min=0.01, help="Readings that labelling a new case takes.")
    ] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Folder of the two tables [RUN/lever].")] = None,
    show: Annotated[int, typer.Option(min=0, help="Classes shown in the terminal.")] = 10,
    draws: Annotated[int, typer.Option(min=1, help="Orders in which cases come, averaged.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of orders and resamples.")] = 0,
    n_resamples: Annotated[int, typer.Option(min=2, help="Bootstrap draws.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print both tables as JSON, nothing else.")] = False,
) -> None:
    """Accuracy against the share of training cases, and of vetted labels: the gain of 100 more readings.

    Linear heads on the embeddings that the run holds: seconds, on the CPU. Take a backbone that did not
    learn from these labels.

    Example: ddeval lever runs/medsiglip_frozen-all-1a2b --labels v1 --reference v1
    """
    from ddeval.data.overlay import find_overlay, read_overlay
    from ddeval.io import write_csv
    from ddeval.score.numbers import OVERLAYS
    from ddeval.train.lever import lever as judged_levers

    def overlay(version: str | None, split: str) -> Any:
        if version in (None, "v0"):
            return None
        return read_overlay(find_overlay(str(version), split=split, folder=OVERLAYS))

    found = judged_levers(
        run,
        overlay=overlay(labels, "train"),
        reference=overlay(reference, judged),
        judged=judged,
        readings_a_case=readings_a_case,
        n_draws=draws,
        seed=seed,
        n_resamples=n_resamples,
    )
    folder = out or run / "lever"
    write_csv(folder / "curve.csv", found.curve)
    write_csv(folder / "slopes.csv", found.slopes)
    for line in found.notes:
        console.note(line)
    if as_json:
        console.say_json(
            {
                "curve": found.curve.to_dict("records"),
                "slopes": found.slopes.to_dict("records"),
                "n_cases": found.n_cases,
                "n_vetted": found.n_vetted,
                "n_readings": found.n_readings,
                "notes": list(found.notes),
                "folder": str(folder),
            }
        )
        return
    _say(found, show)
    console.say(f"\ntables   {folder}/curve.csv, slopes.csv")


def _say(found: "Lever", show: int) -> None:
    whole = found.curve["class_name"].isna()
    for name, last in found.curve[whole].groupby("lever", sort=False):
        values = ", ".join(
            f"{100 * share:.0f} % {100 * value:.1f}"
            for share, value in zip(last["share"], last["value"], strict=True)
        )
        what = f"{found.n_vetted:,} vetted cases known" if name == "labels" else f"{found.n_cases:,} cases"
        console.say(f"top-1 with a share of the {what}: {values}")
    slopes = found.slopes
    console.say("\npoints of top-1 per 100 readings, 95 % interval over patients\n")
    rows = [[NAMES[name], *_cells(slopes[slopes["class_name"].isna()], name)] for name in _levers(slopes)]
    console.say(console.table(rows, header=["", "next", "", "so far", ""]))
    if not show:
        return
    next_ = slopes[slopes["class_name"].notna() & (slopes["part"] == "next")]
    largest = next_.assign(size=next_["value"].abs()).groupby("class_name")["size"].max()
    names = largest.sort_values(ascending=False, kind="stable").index[:show]
    rows = []
    for class_name in names:
        of = next_[next_["class_name"] == class_name].set_index("lever").loc[_levers(slopes)]
        cells = [console.difference(row | {"difference": row["value"]}) for row in of.to_dict("records")]
        rows.append(
            [class_name, f"{int(of['n_images'].iloc[0]):,}", *(f"{p} ({i})" if i else p for p, i in cells)]
        )
    console.say("\nper class, next 100 readings\n")
    console.say(console.table(rows, header=["", "images", *(NAMES[name] for name in _levers(slopes))]))


def _levers(slopes: Any) -> list[str]:
    """Those there are, in the order in which they are shown."""
    return [name for name in NAMES if (slopes["lever"] == name).any()]


def _cells(slopes: Any, name: str) -> list[str]:
    """Next and so far of a lever, each with its interval."""
    cells: list[str] = []
    for part in ("next", "so_far"):
        row = slopes[(slopes["lever"] == name) & (slopes["part"] == part)].iloc[0]
        cells += console.difference(dict(row) | {"difference": row["value"]})
    return cells
