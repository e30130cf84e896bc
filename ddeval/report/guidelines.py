"""What reporting guidelines ask for, answered from a page's tables; "not available" where they are silent.

Not a claim to comply: a list to start the methods section from. TRIPOD+AI is cited by item; CLAIM (2024)
and STARD-AI (2025) by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddeval.report.components import Cell, Column, Table
from ddeval.report.inputs import UNKNOWN, RunTables
from ddeval.report.measures import measure
from ddeval.report.rounding import counted, shown, shown_with_interval

NOT_AVAILABLE = "not available"
LEAKS = ("DD001", "DD002", "DD007")
"""Data checks on what two splits share."""


@dataclass(frozen=True)
class Reported:
    """What a page can answer from beyond the run itself; empty where it holds none of it."""

    n_looks: int = 0
    attributes: Sequence[str] = ()
    """Subgroups that were measured."""
    has_net_benefit: bool = False
    n_readers: int = 0
    has_photos: bool = False


NOTHING_MORE = Reported()


def guideline_table(run: RunTables, about: Reported) -> Table:
    """One row an item: who asks for it, and the answer of this page."""
    rows = []
    for item, asked_in, answer in _items(run, about):
        is_there = answer != NOT_AVAILABLE
        said = Cell(answer) if is_there else Cell(NOT_AVAILABLE, sub="", tone="unsure")
        rows.append([Cell(item), said, Cell(asked_in)])
    columns = [Column(title, is_number=False) for title in ("Item", "This evaluation", "Asked in")]
    caption = "What CLAIM, TRIPOD+AI and STARD-AI ask for"
    return Table("guidelines", caption, columns, rows, is_filterable=True, is_wrapped=True)


def _items(run: RunTables, about: Reported) -> Sequence[tuple[str, str, str]]:
    facts, summary = run.facts, run.summary
    made_from = summary.get("made_from", {})
    unit = run.group_unit
    synthetic = "synthetic photographs, drawn by a computer; " if run.is_synthetic else ""
    manifest = str(facts.get("manifest", {}).get("path", "")).rsplit("/", 1)[-1]
    splits = ", ".join(facts.get("splits", [])) or "all"
    return (
        ("Model and its version", "CLAIM · TRIPOD+AI 22 · STARD-AI", _model(facts)),
        ("Intended use and users", "CLAIM · TRIPOD+AI 3 · STARD-AI", NOT_AVAILABLE),
        ("Source of the data", "CLAIM · TRIPOD+AI 5 · STARD-AI",
         f"{synthetic}manifest {manifest}, split {splits}" if manifest else NOT_AVAILABLE),
        ("Recruitment, eligibility, dates", "CLAIM · TRIPOD+AI 6 · STARD-AI", NOT_AVAILABLE),
        ("Partitions, and the level at which they are disjoint", "CLAIM · TRIPOD+AI 16 · STARD-AI",
         _leaks(run.checks)),
        ("Reference standard", "CLAIM · TRIPOD+AI 8 · STARD-AI", _reference(run)),
        ("Readers, their qualification and agreement", "CLAIM · STARD-AI",
         f"{counted(about.n_readers, 'readers')}, see the human rows" if about.n_readers else NOT_AVAILABLE),
        ("Sample size", "TRIPOD+AI 10 · STARD-AI",
         f"{counted(summary.get('n_images'), 'photographs')}, {counted(summary.get('n_groups'), unit)}; "
         "no calculation given"),
        ("What was left out", "CLAIM · TRIPOD+AI 11 · STARD-AI",
         f"{shown(summary.get('n_quarantined'), 'count')} not readable, "
         f"{shown(summary.get('n_unlabelled'), 'count')} without a label"),
        ("Class imbalance", "TRIPOD+AI 13", _imbalance(run)),
        ("Discrimination, with interval", "CLAIM · TRIPOD+AI 12e, 23a · STARD-AI",
         _values(run, "top_1_accuracy", "auroc_macro")),
        ("Calibration", "TRIPOD+AI 12e, 23a", _values(run, "calibration_gap", "ece")),
        ("Clinical utility", "TRIPOD+AI 12e",
         "net benefit, see Decisions" if about.has_net_benefit else NOT_AVAILABLE),
        ("Thresholds and deferral", "TRIPOD+AI 15 · STARD-AI", _values(run, "coverage_at_risk_5")),
        ("Fairness: performance by subgroup", "CLAIM · TRIPOD+AI 14, 23a · STARD-AI",
         f"by {', '.join(about.attributes)}" if about.attributes else NOT_AVAILABLE),
        ("Heterogeneity between sites", "TRIPOD+AI 12d, 23b",
         "by source, see Subgroups" if "source" in about.attributes else NOT_AVAILABLE),
        ("Uncertainty", "CLAIM · TRIPOD+AI 12 · STARD-AI", _uncertainty(made_from, unit)),
        ("Failure analysis", "CLAIM · STARD-AI",
         "confusion, confident errors" if run.curve("confusion") is not None else NOT_AVAILABLE),
        ("People and the model together", "TRIPOD+AI 27 · STARD-AI", NOT_AVAILABLE),
        ("Looks at the test split", "CLAIM",
         f"{shown(about.n_looks, 'count')} in the ledger" if about.n_looks else NOT_AVAILABLE),
        ("Software and hardware", "CLAIM · TRIPOD+AI 12", _software(facts)),
        ("Ethics, protocol, registration, funding", "CLAIM · TRIPOD+AI 17, 18 · STARD-AI", NOT_AVAILABLE),
        ("Patient involvement", "TRIPOD+AI 19", NOT_AVAILABLE),
    )  # fmt: skip


def _model(facts: Mapping[str, Any]) -> str:
    checkpoint = facts.get("checkpoint", {})
    if not checkpoint.get("name"):
        return NOT_AVAILABLE
    sha256 = str(checkpoint.get("sha256") or "")
    return f"{checkpoint['name']}, sha256 {sha256[:12]}" if sha256 else str(checkpoint["name"])


def _leaks(checks: Sequence[Mapping[str, Any]]) -> str:
    answers = [c for c in checks if c.get("code") in LEAKS and c.get("status") != "not_applicable"]
    said = [f"{c['title']}: {'none' if c['status'] == 'passed' else c['message']}" for c in answers]
    return "; ".join(said) or NOT_AVAILABLE


def _reference(run: RunTables) -> str:
    if run.label_version == "v0":
        return "labels as the manifest gives them (v0), not vetted"
    return f"labels {run.label_version}: readings of clinicians over the manifest's labels"


def _imbalance(run: RunTables) -> str:
    held = [n.n_images for name in run.class_names if (n := run.number("sensitivity", class_name=name))]
    if not held:
        return NOT_AVAILABLE
    return f"photographs a class: {shown(min(held), 'count')} to {shown(max(held), 'count')}, see Per class"


def _values(run: RunTables, *metrics: str) -> str:
    said = []
    for metric in metrics:
        number, about = run.number(metric) or UNKNOWN, measure(metric)
        if number.n_images:
            interval = shown_with_interval(*number[:3], about.unit, n=number.n_images)
            said.append(f"{about.title} {interval}")
    return "; ".join(said) or NOT_AVAILABLE


def _uncertainty(made_from: Mapping[str, Any], unit: str) -> str:
    if "n_resamples" not in made_from:
        return f"95 % percentile bootstrap over {unit}"
    draws = shown(made_from["n_resamples"], "count")
    return f"95 % percentile bootstrap over {unit}, {draws} draws, seed {made_from.get('seed')}"


def _software(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    on = ", ".join(str(facts[name]) for name in ("device", "dtype") if facts.get(name))
    return "; ".join(part for part in (on, versions) if part) or NOT_AVAILABLE
