"""What a person sees in the terminal: notes and progress on stderr, tables and the next command on stdout.

With `--json`, stdout holds the JSON and nothing else. Colour and the progress bar appear only where
stderr is a terminal, and never carry meaning alone.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ddeval.cache import shown

Tick = Callable[[int], None]
"""Called with the number of images just finished."""

HEADLINES = (
    ("top_1_accuracy", "top-1", "percent"),
    ("top_3_accuracy", "top-3", "percent"),
    ("balanced_accuracy", "balanced accuracy", "percent"),
    ("auroc_macro", "AUROC (macro, {n_used}/{n_classes})", "probability"),
    ("ece", "ECE{floor}", "probability"),
)


def note(line: str) -> None:
    """One line about what was assumed, left out or found, on stderr; files in buckets by their addresses."""
    print(shown(line), file=sys.stderr)


def say(line: str = "") -> None:
    print(shown(line))


def say_json(value: Any) -> None:
    """The one thing on stdout under `--json`."""
    from ddeval.io import to_json

    print(shown(to_json(value)))


@contextmanager
def progress(label: str, total: int) -> Iterator[Tick]:
    """A bar with rate and time left on stderr where it is a terminal; silent elsewhere."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich import progress as bars  # costs 0.1 s, paid only where a bar is drawn
    from rich.console import Console

    class Rate(bars.ProgressColumn):
        def render(self, task: bars.Task) -> str:
            return f"{task.speed:,.0f} img/s" if task.speed else ""

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=40),
        bars.TextColumn("{task.completed:,}/{task.total:,}"),
        Rate(),
        bars.TimeRemainingColumn(compact=True),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=False) as shown:
        task = shown.add_task(label, total=total)
        yield lambda n: shown.advance(task, n)


def value(number: Any, unit: str) -> str:
    """One rounding rule: percent with one decimal, probabilities with three, undefined is n/a."""
    if number is None or not math.isfinite(number):
        return "n/a"
    return f"{100 * number:.1f} %" if unit == "percent" else f"{number:.3f}"


def interval(cell: Mapping[str, Any], unit: str) -> str:
    """`72.8 – 74.4`, in the unit of the value; empty where there is none."""
    low, high = cell.get("ci_low"), cell.get("ci_high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{value(low, unit).removesuffix(' %')} – {value(high, unit).removesuffix(' %')}"


def difference(row: Mapping[str, Any]) -> tuple[str, str]:
    """A difference in points and its interval, `+2.1` and `+0.3 – +3.9`; n/a and nothing where undefined."""
    held = [row.get(name) for name in ("difference", "ci_low", "ci_high")]
    points, low, high = (f"{100 * x:+.1f}" if x is not None and math.isfinite(x) else "" for x in held)
    return points or "n/a", f"{low} – {high}" if low and high else ""


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> str:
    """Aligned columns, the first and the last to the left, those between to the right."""
    shown = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(header))]
    last = len(header) - 1
    lines = [
        [
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in shown
    ]
    return "\n".join("    ".join(line).rstrip() for line in lines)


def headline(result: Mapping[str, Any]) -> str:
    """The result of `ddeval score`: the headline metrics with their intervals over groups."""
    metrics = result["metrics"]
    n_classes = len(result["confusion"]["class_names"])  # of the closed set
    words = {
        "n_classes": n_classes,
        "n_used": n_classes - len(result["excluded_classes"]),
        "floor": _floor(metrics),
    }
    rows = [
        [name.format(**words), value(metrics[key]["value"], unit), interval(metrics[key], unit)]
        for key, name, unit in HEADLINES
        if key in metrics
    ]
    lines = [table(rows, header=["", "value", f"95 % interval ({result['group_unit']})"])]
    answered = metrics["coverage_at_risk_5"]["value"]
    lines.append(
        "answers only when sure enough that ≤ 5 % of answers are wrong: "
        + (f"answers {value(answered, 'percent')}" if answered and answered > 0 else "it never is")
    )
    if result["n_quarantined"]:
        lines.append(f"unreadable images, not scored: {result['n_quarantined']:,} (quarantine.parquet)")
    if result["n_unlabelled"]:
        lines.append(f"images without a label, not counted: {result['n_unlabelled']:,}")
    return "\n".join(lines)


def reproduced(found: Mapping[str, Any]) -> str:
    """Whether the numbers of the checkpoint's metrics.json came out, else what may be why."""
    names = {key: name for key, name, _ in HEADLINES[:3]}

    def said(claim: Mapping[str, Any]) -> str:
        return f"{names.get(claim['metric'], claim['metric'])} {value(claim['reported'], 'percent')}"

    claims = found["claims"]
    same = [said(c) for c in claims if c["is_comparable"] and c["is_reproduced"]]
    missed = [
        f"{said(c)} there, {value(c['found'], 'percent')} here"
        for c in claims
        if c["is_comparable"] and not c["is_reproduced"]
    ]
    elsewhere = [f"{said(c)} of split {c['split']}" for c in claims if not c["is_comparable"]]
    lines = [
        f"metrics.json: {what}{', '.join(some)}"
        for what, some in (
            ("reproduces ", same),
            ("NOT reproduced: ", missed),
            ("of another split, not compared: ", elsewhere),
        )
        if some
    ]
    return "\n".join([*lines, *(f"  why: {cause}" for cause in found["causes"])])


def parity(found: Mapping[str, Any]) -> str:
    """What a number format or a runtime costs: answers changed, and the paired difference in points."""
    points, interval_of = difference(found["top_1_difference"])
    return (
        f"{found['way']} against {found['against']}, the first {found['n_images']:,} images: "
        f"{found['n_flips']:,} answers changed (at most {value(found['flips_high'], 'percent')}), "
        f"top-1 {points} points ({interval_of or 'no interval'}), "
        f"logits {found['largest_logit_difference']:.1e} apart at most; measured in {found['seconds']:.1f} s"
    )


def _floor(metrics: Mapping[str, Any]) -> str:
    """What a perfectly calibrated model would show at this n, where it is known."""
    low, high = (metrics.get(f"ece_floor_{end}", {}).get("value") for end in ("low", "high"))
    known = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    return f" (if calibrated: {low:.3f} – {high:.3f})" if known else ""
