"""Subgroups: for whom does the model work less well, and is that more than chance and case mix?

A group is compared with the rest: all other images whose group is recorded. Groups differ in their mix of
conditions, so beside the plain gap stands one within classes. Groups of few patients are named and not
shown, nor is a gap to a rest of few patients. Who belongs where is read from the manifest
(`ddeval.data.attributes`), not here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from ddeval.metrics.arrays import Floats, Labels, Weights, cell_sums, ratio
from ddeval.metrics.paired import holm
from ddeval.metrics.resampling import N_RESAMPLES, group_codes, group_weights, weighed
from ddeval.metrics.shares import deviation, effective_n, gap_ends, stated_interval, two_sided_p

FEWEST_GROUPS = 20
"""Patients a group needs to be shown: with 20 a 95 % interval holds the truth in about 94 % of samples."""

ABSENT = "not recorded"
"""A group that is in nobody's rest."""

COLUMNS = (
    "attribute", "group", "metric", "value", "ci_low", "ci_high", "n_images", "n_groups",
    "gap", "gap_low", "gap_high", "p_value", "p_holm",
    "standardised_gap", "standardised_low", "standardised_high", "note",
)  # fmt: skip

EXTREMES = ("attribute", "metric", "kind", "group", "value", "ci_low", "ci_high", "n_candidates", "note")

LOW_IS_WORST = ("top_1_accuracy", "top_3_accuracy", "malignant_right", "urgent_right")


class Subgroups(NamedTuple):
    """Every metric in every group, and the extremes among the groups shown."""

    table: pd.DataFrame
    """`COLUMNS`: a row an attribute, group and metric. `gap` is the group less the rest,
    `standardised_gap` the same within classes; NaN and a note where a group is not shown."""
    extremes: pd.DataFrame
    """`EXTREMES`: for each attribute and metric the `worst` group and the `largest_gap` (its absolute
    value). The interval of the worst is widened for having been picked among `n_candidates` groups; that
    of the largest gap holds it whichever group it is truly of."""


def subgroups(
    labels: Labels,
    values: Mapping[str, Floats],
    attributes: Mapping[str, npt.NDArray[np.object_]],
    *,
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    confidence_level: float = 0.95,
    fewest_groups: int = FEWEST_GROUPS,
) -> Subgroups:
    """Means of `values` in each subgroup with intervals, gaps to the rest and Holm over the groups.

    Intervals are bootstrap percentiles; where all values are 0 or 1 they are no surer than shares of so
    few patients allow (`ddeval.metrics.shares`). Holm's family is the groups of one attribute that are
    shown, for one metric. The standardised gap
    averages the gaps within classes that both sides have, weighted by the classes' share of both; in a
    draw where one side lost a class, that class is left out of the draw. Where the rest has fewer than
    `fewest_groups` patients (with one group it has none) the gaps are NaN and the note says so. A share of
    0 or 1 has its exact bound; a gap that every resample repeats (all right on both sides) stands alone,
    without interval and p-value. No image, or no group large enough, is no error: every row has its n.

    Parameters
    ----------
    labels : int array of shape (N,)
        Class of each image: what case mix is made of.
    values : mapping of metric to float array of shape (N,)
        What each image adds to a mean: 1 and 0 for a rate. No NaN.
    attributes : mapping of attribute to object array of shape (N,)
        Group of each image; None where the attribute does not concern it.
    groups : array of shape (N,)
        Patient of each image.
    fewest_groups : int
        Patients below which a group is not shown, and below which a rest is not compared with.

    Raises
    ------
    ValueError
        If lengths differ or a value is NaN.
    """
    labels = np.asarray(labels, dtype=np.int64)
    matrix = _checked(len(labels), values, attributes, groups)
    if not len(labels):
        return Subgroups(pd.DataFrame(columns=list(COLUMNS)), pd.DataFrame(columns=list(EXTREMES)))
    group_of, n_groups = group_codes(groups)
    n_classes = int(labels.max(initial=0)) + 1
    kept = {name: _Attribute.of(cells, labels, matrix, n_classes) for name, cells in attributes.items()}
    kept = {name: found for name, found in kept.items() if found.names}

    def measure(weights: Weights) -> list[tuple[Floats, Floats, Floats]]:
        return [found.numbers(weights) for found in kept.values()]

    drawn = list(weighed(measure, group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples)))
    point = measure(np.ones((1, len(labels))))
    rows, extremes = [], []
    for place, (name, found) in enumerate(kept.items()):
        n_patients = [len(np.unique(group_of[found.group_of == g])) for g in range(len(found.names))]
        n_rest = [len(np.unique(group_of[found.rest(g)])) for g in range(len(found.names))]
        is_shown = [n >= fewest_groups for n in n_patients]
        numbers = [np.concatenate([block[place][i] for block in drawn]) for i in range(3)]
        for m, metric in enumerate(values):
            is_share = bool(np.isin(matrix[m], (0.0, 1.0)).all())
            told = [
                _Told(
                    [float(p[0, g, m]) for p in point[place]],
                    [drawn_values[:, g, m] for drawn_values in numbers],
                    (n_patients[g], n_rest[g]) if is_share else None,
                )
                for g in range(len(found.names))
            ]
            of_metric = [
                told[g].row(confidence_level)
                | {
                    "attribute": name,
                    "group": found.names[g],
                    "metric": metric,
                    "n_images": int((found.group_of == g).sum()),
                    "n_groups": n_patients[g],
                    "note": "",
                }
                for g in range(len(found.names))
            ]
            of_metric = [
                row if n >= fewest_groups else _incomparable(row, fewest_groups, n)
                for row, n in zip(of_metric, n_rest, strict=True)
            ]
            family = [
                row["p_value"] if shown else np.nan for row, shown in zip(of_metric, is_shown, strict=True)
            ]
            for row, shown, p in zip(of_metric, is_shown, holm(family), strict=True):
                row["p_holm"] = float(p)
                rows.append(row if shown else _suppressed(row, fewest_groups))
            extremes += _extremes(name, metric, of_metric, is_shown, told, confidence_level)
    return Subgroups(
        pd.DataFrame(rows, columns=list(COLUMNS)), pd.DataFrame(extremes, columns=list(EXTREMES))
    )


class _Attribute(NamedTuple):
    """One attribute made ready: cells of (group, class), the sums over which give every number."""

    names: tuple[str, ...]
    group_of: npt.NDArray[np.int64]
    """(N,), -1 where the attribute does not concern the image."""
    mass: sparse.csr_array
    """(G C, N), 1 where the image is in the cell."""
    sums: list[sparse.csr_array]
    """The same holding each metric's values."""
    n_classes: int

    @classmethod
    def of(
        cls, cells: npt.NDArray[np.object_], labels: Labels, values: Floats, n_classes: int
    ) -> "_Attribute":
        concerned = np.array([cell is not None and cell == cell for cell in cells])
        names = sorted({str(cell) for cell in cells[concerned]})
        codes = np.full(len(cells), -1, dtype=np.int64)
        codes[concerned] = np.searchsorted(names, cells[concerned].astype(str))
        rows = np.flatnonzero(concerned)
        cell_of = codes[rows] * n_classes + labels[rows]
        shape = (len(names) * n_classes, len(cells))

        def filled(with_values: Floats) -> sparse.csr_array:
            return sparse.csr_array((with_values.astype(np.float32), (cell_of, rows)), shape=shape)

        of_metrics = [filled(column[rows]) for column in values]
        return cls(tuple(names), codes, filled(np.ones(len(rows))), of_metrics, n_classes)

    def rest(self, group: int) -> npt.NDArray[np.bool_]:
        """Images a group is compared with: of the other groups, but for `ABSENT`, (N,)."""
        absent = self.names.index(ABSENT) if ABSENT in self.names else group
        return np.asarray(~np.isin(self.group_of, [-1, group, absent]))

    def numbers(self, weights: Weights) -> tuple[Floats, Floats, Floats]:
        """Mean, gap to the rest and standardised gap of each draw, group and metric, (b, G, M) each."""
        n_names, n_draws = len(self.names), weights.shape[0]
        shape = (n_names, self.n_classes, n_draws)
        mass = np.asarray(cell_sums(self.mass, weights), dtype=np.float64).reshape(shape)
        is_known = np.array([name != ABSENT for name in self.names], dtype=np.float64)[:, None, None]
        rest_mass = (mass * is_known).sum(axis=0) - mass * is_known  # (G, C, b)
        result = []
        for sums in self.sums:
            total = np.asarray(cell_sums(sums, weights), dtype=np.float64).reshape(shape)
            rest_total = (total * is_known).sum(axis=0) - total * is_known
            mean = ratio(total.sum(axis=1), mass.sum(axis=1))
            rest = ratio(rest_total.sum(axis=1), rest_mass.sum(axis=1))
            shared = np.where((mass > 0) & (rest_mass > 0), mass + rest_mass, 0.0)
            within = ratio(total, mass) - ratio(rest_total, rest_mass)
            inside = np.where(shared > 0, within, 0.0)
            standardised = ratio((inside * shared).sum(axis=1), shared.sum(axis=1))
            result.append((mean, mean - rest, standardised))
        stacked = (np.stack([numbers[i] for numbers in result], axis=-1) for i in range(3))  # (G, b, M)
        mean, gap, standardised = (np.moveaxis(values, 1, 0) for values in stacked)
        return mean, gap, standardised


class _Told(NamedTuple):
    """Mean, gap and standardised gap of one group and metric: on the data, and in the draws, (B,) each."""

    point: Sequence[float]
    drawn: Sequence[Floats]
    over: tuple[int, int] | None
    """Patients of the group and of the rest, where the mean is a share."""

    def row(self, level: float) -> dict[str, Any]:
        value, gap, within = self.point
        low, high = self.value_ends(level)
        gap_low, gap_high, p_value = self.gap_ends(level)
        (within_low,), (within_high,), _ = stated_interval(
            [within], self.drawn[2][:, None], confidence_level=level
        )
        return {
            "value": value, "ci_low": low, "ci_high": high,
            "gap": gap, "gap_low": gap_low, "gap_high": gap_high, "p_value": p_value,
            "standardised_gap": within,
            "standardised_low": float(within_low), "standardised_high": float(within_high),
        }  # fmt: skip

    def value_ends(self, level: float) -> tuple[float, float]:
        (low,), (high,), _ = stated_interval(
            [self.point[0]],
            self.drawn[0][:, None],
            share_of=None if self.over is None else self.over[0],
            confidence_level=level,
        )
        return float(low), float(high)

    def gap_ends(self, level: float) -> tuple[float, float, float]:
        """Ends and p-value of the gap; of shares no surer than Agresti and Caffo's."""
        (low,), (high,), _ = stated_interval([self.point[1]], self.drawn[1][:, None], confidence_level=level)
        p_value = two_sided_p(self.drawn[1]) if np.isfinite(low) else np.nan
        if self.over is None or np.isnan(low):
            return float(low), float(high), p_value
        rest, rest_drawn = self.point[0] - self.point[1], self.drawn[0] - self.drawn[1]
        sides = (self.point[0], self.drawn[0], self.over[0]), (rest, rest_drawn, self.over[1])
        shares, effective = zip(*(_behind(*side, level) for side in sides), strict=True)
        ends = gap_ends(shares, effective, confidence_level=level)
        return (
            float(np.fmin(low, ends[0])),
            float(np.fmax(high, ends[1])),
            float(np.fmax(p_value, ends[2])),
        )


def _behind(share: float, drawn: Floats, n_groups: int, level: float) -> tuple[float, float]:
    """A share, and the independent images behind it: the groups where it is 0 or 1."""
    share = float(np.clip(share, 0.0, 1.0))
    if np.isclose(share * (1 - share), 0.0):
        return share, float(n_groups)
    return share, float(effective_n(share, deviation(drawn[:, None])[0], n_groups, confidence_level=level))


def _incomparable(row: Mapping[str, Any], fewest: int, n_rest: int) -> dict[str, Any]:
    """A row whose own number stands, and whose gap cannot be told."""
    gaps = [name for name in COLUMNS if "gap" in name or name.startswith(("standardised_", "p_"))]
    note = f"gap: cannot tell, the rest has fewer than {fewest} patients ({n_rest})"
    return dict(row) | dict.fromkeys(gaps, np.nan) | {"note": note}


def _suppressed(row: Mapping[str, Any], fewest: int) -> dict[str, Any]:
    kept = {name: row[name] for name in ("attribute", "group", "metric", "n_images", "n_groups")}
    return kept | {"note": f"fewer than {fewest} patients ({row['n_groups']}): not shown"}


def _extremes(
    attribute: str,
    metric: str,
    rows: Sequence[Mapping[str, Any]],
    is_shown: Sequence[bool],
    told: Sequence[_Told],
    confidence_level: float,
) -> list[dict[str, Any]]:
    """The worst group and the largest gap among the recorded groups shown, with widened intervals.

    Each group's interval is Bonferroni's, so that all hold at once. The largest gap lies between the largest
    of their lower ends and the largest of their upper ends: a small group whose own gap looks smaller may
    well have the largest.
    """
    candidates = [g for g, (row, shown) in enumerate(zip(rows, is_shown, strict=True)) if shown]
    candidates = [g for g in candidates if rows[g]["group"] != ABSENT and np.isfinite(rows[g]["value"])]
    hidden = [row["group"] for row, shown in zip(rows, is_shown, strict=True) if not shown]
    note = f"not shown, too few patients: {', '.join(hidden)}" if hidden else ""
    apart = [str(rows[g]["note"]) for g in candidates if not np.isfinite(rows[g]["gap"])]
    base = {"attribute": attribute, "metric": metric, "n_candidates": len(candidates)}
    nothing = {"group": None, "value": np.nan, "ci_low": np.nan, "ci_high": np.nan}
    level = 1 - (1 - confidence_level) / max(len(candidates), 1)
    found = []
    for kind, column in (("worst", "value"), ("largest_gap", "gap")):
        usable = [g for g in candidates if np.isfinite(rows[g][column])]
        if not usable:
            why = "; ".join(dict.fromkeys([*([note] if note else []), *apart])) or "no two groups to compare"
            found.append(base | nothing | {"kind": kind, "note": why})
            continue
        if kind == "worst" and metric in LOW_IS_WORST:
            g = min(usable, key=lambda g: rows[g]["value"])
        else:
            g = max(usable, key=lambda g: abs(rows[g][column]))
        value, (low, high) = float(rows[g][column]), told[g].value_ends(level)
        if kind == "largest_gap":
            value = abs(value)
            ends = np.array([_of_absolute(*told[of].gap_ends(level)[:2]) for of in usable])
            low, high = ends.max(axis=0).tolist()  # the largest is no smaller than any, and one of them
        found.append(
            base | {"kind": kind, "group": rows[g]["group"], "value": value, "ci_low": low, "ci_high": high}
            | {"note": note}
        )  # fmt: skip
    return found


def _of_absolute(low: float, high: float) -> tuple[float, float]:
    """Where |x| lies when x lies in [low, high]."""
    return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))


def _checked(
    n_images: int,
    values: Mapping[str, Floats],
    attributes: Mapping[str, npt.NDArray[np.object_]],
    groups: npt.NDArray[Any],
) -> Floats:
    for name, array in {**values, **attributes, "groups": groups}.items():
        if len(array) != n_images:
            raise ValueError(f"{name} has {len(array)} rows, labels have {n_images}")
    matrix = np.array([np.asarray(v, dtype=np.float64) for v in values.values()]).reshape(
        len(values), n_images
    )
    if np.isnan(matrix).any():
        raise ValueError("values must have no NaN: leave out the rows that a metric is not about")
    return matrix
