"""The folder of a comparison: every table its page is drawn from, made so that it can be made again.

    reports/<name>/
        comparison.json       the JSON twin of the page; `made_from` is what makes it again
        values.parquet …      one file a table
        run-1/ run-2/ …       each run's own numbers on the compared images, laid out as a run folder
        thumbnails/           of the photographs in the galleries

What the numbers mean is written in `ddeval.metrics`; `ddeval.score.verify` makes all of it again.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddeval import io
from ddeval.errors import InputError
from ddeval.metrics.resampling import N_RESAMPLES
from ddeval.score import comparison, folder
from ddeval.score.deferral import read_rule, rule_for
from ddeval.score.ensembles import ensemble_gains, parity, with_ensembles
from ddeval.score.evaluate import N_GALLERY, image_roots, with_thumbnails, write_numbers
from ddeval.score.gate import LATENCY, gate_answers, latency, may_exceed_one, read_gate
from ddeval.score.joined import Joined, join
from ddeval.score.numbers import OVERLAYS, TOLD_OF_RULE, Numbers, numbers
from ddeval.score.stakes import conditions_for
from ddeval.score.versions import audits_of, readers_table, readings_of, shared_overlays, versions_table

COMPARISON_FILE = "comparison.json"
PATHS = ("gate", "reported", "conditions", "overlays", "readings")
SEVERAL = ("runs", "bench", "abstain", "versions", "audits")
"""What of a comparison is several paths."""
REPORTED = ("run", "metric", "value", "notes")
"""Columns of a table of checkpoints whose numbers were typed in."""


@dataclass(frozen=True)
class Asked:
    """What makes a comparison: the same answers and files give the same tables."""

    runs: tuple[Path, ...]
    baseline: str | None = None
    """Name or folder of a run; the first where None."""
    labels: str | None = None
    is_common: bool = False
    gate: Path | None = None
    candidate: str | None = None
    """Name or folder of the run the gate is asked of; the last but the baseline where None."""
    bench: tuple[Path, ...] = ()
    """JSON of `ddeval bench`."""
    abstain: tuple[Path, ...] = ()
    """Files of `ddeval abstain`: each run's outcomes are told under the rule made for its checkpoint, and the
    deferrals that changed under the baseline's are counted."""
    ensembles: tuple[str, ...] = ()
    """`A+B`: the mean of the probabilities of runs A and B."""
    reported: Path | None = None
    conditions: Path | None = None
    """Where None as `ddeval.score.stakes.conditions_for`."""
    prevalence: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    n_resamples: int = N_RESAMPLES
    overlays: Path = OVERLAYS
    versions: tuple[Path, ...] | None = None
    """Overlays the checkpoints stand under side by side; where None those every run was scored under."""
    audits: tuple[Path, ...] | None = None
    """Whose queues say which checkpoint proposed a case; where None those in the folders of the runs."""
    readings: Path | None = None
    """What readers said; where None what lies beside the last of the overlays."""

    def made_from(self) -> dict[str, Any]:
        """As JSON, files by their full path."""
        held = asdict(self)
        held |= {name: [str(path.resolve()) for path in held[name] or ()] for name in SEVERAL}
        return held | {name: str(held[name].resolve()) for name in PATHS if held[name] is not None}

    @classmethod
    def of(cls, made_from: Mapping[str, Any]) -> "Asked":
        """The inverse of `made_from`."""
        held = {name: made_from[name] for name in cls.__dataclass_fields__ if name in made_from}
        held |= {name: Path(held[name]) for name in PATHS if held.get(name) is not None}
        held |= {name: tuple(Path(path) for path in held.get(name, ())) for name in SEVERAL}
        held["ensembles"] = tuple(held["ensembles"])
        return cls(**held)


@dataclass(frozen=True)
class Compared:
    """A comparison before it is written."""

    joined: Joined
    tables: dict[str, pd.DataFrame]
    """By file name without the ending."""
    facts: dict[str, Any]
    """comparison.json, but for what the ledger says."""


def compared(asked: Asked, *, note: Callable[[str], None] = lambda line: None) -> Compared:
    """Every table of a comparison; nothing is written and the ledger is not touched.

    Raises
    ------
    InputError
        As `ddeval.score.joined.join`, for a gate that asks for what is not there, and for a table of
        reported numbers that does not fit.
    """
    gate_file = None if asked.gate is None else read_gate(asked.gate)
    reported = None if asked.reported is None else read_reported(asked.reported)
    joined = join(asked.runs, labels=asked.labels, overlays=asked.overlays, is_common=asked.is_common)
    joined = with_ensembles(joined, asked.ensembles)
    for line in joined.notes:
        note(line)
    baseline = _named(joined, asked.baseline) or joined.names[0]
    conditions, chosen = conditions_for(joined.rows, joined.class_names, asked.conditions)
    asked = replace(asked, conditions=Path(conditions.where))
    stakes, said = comparison.at_stake(joined, conditions, prevalence=asked.prevalence)
    said = [*chosen, *said]
    for line in said:
        note(line)
    draws = {"seed": asked.seed, "n_resamples": asked.n_resamples}
    rules, silent = _rules(joined, asked.abstain)
    for line in silent:
        note(line)
    held_back = {name: joined.held_back(name, read_rule(path)) for name, path in rules.items()}
    found = comparison.compared(joined, baseline=baseline, stakes=stakes, held_back=held_back, **draws)
    unknown = set() if reported is None else set(reported["metric"]) - set(found.values["metric"])
    if unknown:
        said.append(f"typed-in numbers of no metric of this comparison: {', '.join(sorted(unknown))}")
        note(said[-1])
    others = [name for name in joined.runs if name != baseline]
    tables = {name: getattr(found, name) for name in ("values", "differences", "mcnemar", "best")}
    flipped = [comparison.flip_table(joined, run, baseline) for run in others]
    tables |= comparison.clinical_tables(
        joined, found, baseline=baseline, stakes=stakes, conditions=conditions, held_back=held_back, **draws
    )
    candidate = _named(joined, asked.candidate) or others[-1]
    if candidate not in others:
        raise InputError(
            f"--candidate {candidate}", "no such run", expected=f"one of {', '.join(others)}", todo="Name it."
        )
    gate = None
    if asked.gate is not None and gate_file is not None:
        gate = gate_answers(
            gate_file, joined, found, tables,
            run=candidate, baseline=baseline, where=str(asked.gate), bench=asked.bench, **draws,
        )  # fmt: skip
        gate["sha256"] = io.file_sha256(asked.gate)
    tables |= {"flips": pd.concat(flipped, ignore_index=True), "about": _about(joined, asked.bench)}
    of_parity = rules.get(baseline) or next(iter(asked.abstain), None)
    tables["parity"] = parity(joined, baseline, None if of_parity is None else read_rule(of_parity))
    if asked.ensembles:
        tables["ensembles"] = ensemble_gains(joined, asked.ensembles, **draws)
    asked = _with_vetting(asked, joined)
    assert asked.versions is not None
    assert asked.audits is not None
    if asked.versions:
        tables["versions"] = versions_table(
            joined, asked.versions, audits=asked.audits, ensembles=asked.ensembles,
            is_common=asked.is_common, **draws,
        )  # fmt: skip
    if asked.readings is not None:
        tables["readers"] = readers_table(joined, io.read_parquet(asked.readings)[0], **draws)
    if reported is not None:
        tables["reported"] = reported
    facts = {
        "runs": list(joined.runs),
        "baseline": baseline,
        "candidate": candidate,
        "labels": joined.version,
        "splits": next(iter(joined.facts.values()))["splits"],
        "class_names": list(joined.class_names),
        "other_class": joined.other_class,
        "n_images": found.n_images,
        "n_groups": found.n_groups,
        "is_synthetic": any(facts.get("is_synthetic") for facts in joined.facts.values()),
        "group_unit": next(iter(joined.facts.values())).get("group_unit", "groups"),
        "notes": [*joined.notes, *said],
        "prevalence": {} if stakes is None else dict(stakes.prevalence),
        "inputs": {name: _input(joined.facts[name]) for name in joined.runs},
        "gate": gate,
        "abstain": {name: {n: read_rule(path)[n] for n in TOLD_OF_RULE} for name, path in rules.items()},
        "made_from": asked.made_from(),
    }
    return Compared(joined, tables, facts)


def _named(joined: Joined, asked: str | None) -> str | None:
    """The name of a run that was given by its name or its folder, `runs/a/` too."""
    if asked is None or asked in joined.names:
        return asked
    folder = Path(asked).resolve()
    return next((name for name, run in joined.runs.items() if run.resolve() == folder), asked)


def _with_vetting(asked: Asked, joined: Joined) -> Asked:
    """What was asked, with the overlays, audits and readings that are there where none were named."""
    versions = shared_overlays(joined) if asked.versions is None else asked.versions
    own = next(iter(joined.judged.values())).overlay_path
    if own is not None and asked.versions is None:
        versions = tuple(dict.fromkeys([*(path.resolve() for path in versions), own.resolve()]))
    audits = audits_of(joined) if asked.audits is None else asked.audits
    first = asked.versions is None and asked.readings is None
    readings = readings_of(versions) if first else asked.readings
    return replace(asked, versions=versions, audits=audits if versions else (), readings=readings)


def write(made: Compared, out: Path, *, note: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Write the folder of a comparison, enter the look into the ledger, and give the JSON twin.

    An earlier comparison there is replaced; an InputError for a folder with anything else in it.
    """
    check_place(out)
    for copy in out.glob("run-*"):
        shutil.rmtree(copy)
    joined, facts = made.joined, dict(made.facts)
    look = {"run": ", ".join(joined.names), "splits": facts["splits"], "labels": joined.version}
    if facts["gate"] is not None:
        seen = folder.first_look(joined.manifest_path, gate_sha256=facts["gate"]["sha256"], look=look)
        facts["gate"] = facts["gate"] | {"first_look": seen}
    unrecorded = folder.record_look(joined.manifest_path, look)
    if unrecorded:
        note(unrecorded)
    looks = [
        seen for seen in folder.read_looks(joined.manifest_path) if seen.get("splits") == facts["splits"]
    ]
    facts["looks"] = [{name: seen.get(name) for name in ("time", "run", "labels")} for seen in looks]

    tables = dict(made.tables)
    roots = image_roots(next(iter(joined.facts.values())), joined.manifest_path)
    tables["flips"], n_missing = with_thumbnails(out, tables["flips"], joined.manifest, roots)
    for i, name in enumerate(joined.runs, start=1):
        n_missing += write_run_numbers(out / f"run-{i}", joined, name, made.facts["made_from"])
    if n_missing:
        note(f"images of the galleries that could not be shown: {n_missing}")
    for stale in out.glob("*.parquet"):
        if stale.stem not in tables:
            stale.unlink()
    for name, table in tables.items():
        io.write_parquet(out / f"{name}.parquet", table)
    twin = facts | {name: table.to_dict("records") for name, table in made.tables.items()}
    io.write_json(out / COMPARISON_FILE, twin)
    return twin


def page_of(out: Path) -> Path:
    """The page of a comparison that is to be called `out`; its tables go into the folder without `.html`."""
    if not out.name.strip("."):
        raise InputError(f"--out {out}", "no name", expected="a file", todo="Name the page, compare.html.")
    return out if out.suffix.lower() == ".html" else out.with_name(f"{out.name}.html")


def check_place(out: Path) -> None:
    """Refuse to write a comparison where nothing can be written, or over files of something else."""
    io.check_writable(out, is_folder=True)
    if out.is_dir() and any(out.iterdir()) and not (out / COMPARISON_FILE).is_file():
        raise InputError(
            str(out),
            "a folder with other files in it",
            expected="an empty place for the tables of the page, or an earlier comparison",
            todo="Pass another --out, or remove the folder.",
        )


def write_run_numbers(out: Path, joined: Joined, name: str, made_from: Mapping[str, Any]) -> int:
    """A run's own numbers on the compared images, laid out as a run folder; how many photographs lack.

    They are taken from the run where it has them for these images and labels, and made where not.
    """
    run, facts = joined.runs[name], joined.facts[name]
    stored = run / f"labels-{joined.version}"
    io.write_json(out / folder.RUN_FILE, own_facts(facts, name))
    if (run / folder.QUARANTINE_FILE).is_file():
        shutil.copyfile(run / folder.QUARANTINE_FILE, out / folder.QUARANTINE_FILE)
    if _has_these(stored, joined, name, made_from):
        shutil.copytree(stored, out / stored.name, dirs_exist_ok=True)
        gallery = out / stored.name / "curves" / "gallery.parquet"
        shown = io.read_parquet(gallery)[0] if gallery.is_file() else pd.DataFrame({"thumbnail": []})
        for path in shown["thumbnail"].dropna():
            (out / "thumbnails").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / path, out / path)
        return int(shown["thumbnail"].isna().sum())
    found = run_numbers(joined, name, made_from)
    roots = image_roots(facts, joined.manifest_path)
    shown, n_missing = with_thumbnails(out, found.errors.head(N_GALLERY), joined.manifest, roots)
    write_numbers(out, found, shown)
    return n_missing


def own_facts(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A run's `run.json` under the name it has in the comparison.

    Without where its own labels and conditions lie, which change when it is scored again.
    """
    own = ("overlays", "conditions", "abstain")
    kept = {key: value for key, value in facts.items() if key not in own}
    return kept | {"checkpoint": facts["checkpoint"] | {"name": name}}


def run_numbers(joined: Joined, name: str, made_from: Mapping[str, Any]) -> Numbers:
    """A run's own numbers on the compared images, from its predictions."""
    is_whole = len(joined.judged[name].labels) == len(joined.image_ids)
    return numbers(
        joined.runs[name], made_from["labels"], overlays=Path(made_from["overlays"]), seed=made_from["seed"],
        n_resamples=made_from["n_resamples"], conditions=Path(made_from["conditions"]),
        prevalence=made_from["prevalence"], calibrators=made_from.get("calibrators", "quick"),
        abstain=rule_for(_paths(made_from["abstain"]), joined.facts[name]),
        only=None if is_whole else pd.Index(joined.image_ids),
    )  # fmt: skip


def _rules(joined: Joined, given: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """The deferral rule of each run that has one of its own, and a sentence on each that has none."""
    rules = {name: rule_for(given, joined.facts[name]) for name in joined.runs} if given else {}
    said = [
        f"{name}: no --abstain file was made for this checkpoint; only an answer `other` defers"
        for name, path in rules.items()
        if path is None
    ]
    return {name: path for name, path in rules.items() if path is not None}, said


def read_reported(path: Path) -> pd.DataFrame:
    """Typed-in numbers: a CSV file of `run, metric, value, notes`, shares between 0 and 1."""
    frame = io.read_csv(path)
    lacking = [name for name in REPORTED[:3] if name not in frame]
    if lacking:
        raise InputError(
            str(path),
            f"no column {', '.join(lacking)}",
            expected=", ".join(REPORTED),
            todo="Write one row a checkpoint and metric.",
        )
    values = pd.to_numeric(frame["value"], errors="coerce")
    exceeds = ~frame["metric"].map(lambda name: may_exceed_one(str(name))).astype(bool) & (values.abs() > 1)
    for wrong, found, expected in (
        (frame["run"].isna() | frame["metric"].isna(), "no run or metric", "both"),
        (~np.isfinite(values) | exceeds, "value {value!r}", "a number, a share between 0 and 1"),
        (frame.duplicated(["run", "metric"]), "{metric} of {run!r} again", "one row a checkpoint and metric"),
    ):
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise InputError(
                f"{path} line {io.line_of_row(path, row)}",
                found.format(**frame.iloc[row]),
                expected=expected,
                todo="Correct the row.",
            )
    return frame.assign(value=values, notes=frame.get("notes"))[list(REPORTED)]


def _has_these(stored: Path, joined: Joined, name: str, made_from: Mapping[str, Any]) -> bool:
    """Whether a run's stored numbers are over the compared images, labels, conditions and prevalence."""
    if not (stored / "metrics.json").is_file():
        return False
    result, judged = io.read_json(stored / "metrics.json"), joined.judged[name]
    told = result["made_from"]
    found = (told["labels_sha256"], told["predictions"], result["n_images"])
    wanted = (judged.labels_sha256, judged.predictions.fingerprint, len(joined.image_ids))
    rule = rule_for(_paths(made_from["abstain"]), joined.facts[name])
    at_stake = (told.get("conditions_sha256"), told.get("prevalence"), told.get("abstain_sha256"))
    asked = (
        io.file_sha256(Path(made_from["conditions"])),
        dict(made_from["prevalence"]),
        None if rule is None else io.file_sha256(rule),
    )
    return bool(found == wanted and at_stake == asked)


def _paths(texts: Sequence[str]) -> list[Path]:
    return [Path(text) for text in texts]


def _about(joined: Joined, bench: Sequence[Path]) -> pd.DataFrame:
    """What each checkpoint costs and what is known about it; empty cells where unknown."""
    rows = []
    for name, facts in joined.facts.items():
        checkpoint = facts["checkpoint"]
        notes = [str(note) for note in facts.get("notes", [])]
        rows.append(
            {
                "run": name,
                "n_parameters": checkpoint.get("n_parameters"),
                LATENCY: latency(name, bench).value,
                "notes": "; ".join([str(checkpoint.get("kind", "")), *notes]),
            }
        )
    table = pd.DataFrame(rows)
    return table.astype({"n_parameters": float, LATENCY: float})


def _input(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What of run.json a reader of the page may want to check."""
    checkpoint = {name: facts["checkpoint"].get(name) for name in ("name", "kind", "sha256")}
    names = ("fingerprint", "device", "dtype", "batch_size", "n_images", "n_groups", "versions")
    manifest = facts.get("manifest", {}).get("sha256")
    return {"checkpoint": checkpoint, "manifest": manifest} | {n: facts[n] for n in names if n in facts}
