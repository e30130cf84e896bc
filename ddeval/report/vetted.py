"""What vetting was worth: systems before and after, judged three ways, and what the queues found.

Drawn from the tables `loop` and `loop_queues` that `ddeval demo` adds to a comparison.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ddeval.report.cells import value_cell
from ddeval.report.components import Block, Cell, Column, Section, Table, Text
from ddeval.report.rounding import shown, shown_with_interval


def vetted_section(
    loop: pd.DataFrame | None, queues: pd.DataFrame | None, *, colours: Mapping[str, int]
) -> tuple[Section, ...]:
    """The section, or none where the comparison is no loop.

    Parameters
    ----------
    loop : DataFrame
        `run, system, is_retrained`, and `value, ci_low, ci_high` of `as_given_` and `vetted_`, with
        `planted_value`, `planted_n_images`.
    queues : DataFrame
        `split, use, n_cases, n_adjudicated, n_relabelled, n_relabelled_rightly, n_wrong_read,
        n_wrong_planted`, one row a queue.
    """
    if loop is None or queues is None:
        return ()
    by_system = loop.groupby("system", sort=False)
    gains = [_gain(rows) for _, rows in by_system if rows["is_retrained"].nunique() == 2]
    blocks: list[Block] = [*(Text(line) for line in gains), _accuracies(loop, colours), _found(queues)]
    lead = (
        "Readers vetted two queues blind. What they found in the training split was learnt from; what they "
        "found in the test split only estimates. The truth is planted, so the estimate stands beside it. On "
        "the labels as given, as everywhere below, a gain is partly hidden: wrong labels call right answers "
        "wrong."
    )
    return (Section("loop", "What vetting was worth", blocks, lead=lead, menu="Vetting"),)


def _gain(rows: pd.DataFrame) -> str:
    before, after = (rows[rows["is_retrained"] == is_after].iloc[0] for is_after in (False, True))
    values = [shown(row["planted_value"], "percent") for row in (before, after)]
    estimate = shown_with_interval(
        before["vetted_value"], before["vetted_ci_low"], before["vetted_ci_high"], "percent"
    )
    holds = before["vetted_ci_low"] <= before["planted_value"] <= before["vetted_ci_high"]
    return (
        f"{before['run']} is right on {values[0]} of photographs. Its labels say "
        f"{shown(before['as_given_value'], 'percent')}; vetting estimates {estimate}, which "
        f"{'holds' if holds else 'misses'} the real value. Trained again on vetted labels it is right on "
        f"{values[1]}."
    )


def _accuracies(loop: pd.DataFrame, colours: Mapping[str, int]) -> Table:
    def cell(row: Mapping[Any, Any], kind: str) -> Cell:
        ends = (row[f"{kind}_ci_low"], row[f"{kind}_ci_high"])
        return value_cell(row[f"{kind}_value"], "percent", interval=ends)

    rows = [
        [
            Cell(
                row["run"],
                sub=f"trained on {'vetted labels' if row['is_retrained'] else 'labels as given'}",
                series=colours.get(row["run"]),
            ),
            cell(row, "as_given"),
            cell(row, "vetted"),
            value_cell(row["planted_value"], "percent"),
        ]
        for row in loop.to_dict("records")
    ]
    columns = [
        Column("Checkpoint", is_number=False),
        Column("Top-1, labels as given", help="What an evaluation without vetting says."),
        Column("Top-1, vetted reference", help="Estimated from the readings of the test queue."),
        Column("Top-1, planted truth", help="What a real project never knows."),
    ]
    n_images, n_vetted = int(loop["planted_n_images"].iloc[0]), int(loop["vetted_n_vetted"].iloc[0])
    note = (
        f"95 % intervals; that of the vetted reference includes the readers' own error and rests on "
        f"{shown(n_vetted, 'count')} cases that got a class. Planted: {shown(n_images, 'count')} "
        "photographs of cases that can be read."
    )
    return Table("loop-table", "Accuracy before and after, three ways", columns, rows, note=note)


def _found(queues: pd.DataFrame) -> Table:
    counts = {
        "n_cases": ("Cases read", "Twice each, blind."),
        "n_adjudicated": ("Settled by a third", "Cases on which the two readings differed."),
        "n_relabelled": ("Relabelled", ""),
        "n_relabelled_rightly": ("of them rightly", "The given label was planted wrong."),
        "n_wrong_read": ("Wrong labels read", ""),
        "n_wrong_planted": ("Wrong labels in the split", ""),
    }
    columns = [Column("Queue", is_number=False), Column("Used for", is_number=False)]
    columns += [Column(title, help=about) for title, about in counts.values()]
    rows = [
        [
            Cell(f"{row['split']} split"),
            Cell(row["use"]),
            *(Cell(shown(row[n], "count"), sort=float(row[n])) for n in counts),
        ]
        for row in queues.to_dict("records")
    ]
    return Table("loop-queues", "What the readers found, in cases", columns, rows, is_sortable=False)
