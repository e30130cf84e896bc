"""`ddeval audit`: doubtful labels, duplicates, leaks and the queue; `plan`: what it buys; `page`: as HTML."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from ddeval.cli import console
from ddeval.cli.auditing import N_QUEUE, SIMILARITY
from ddeval.cli.options import today
from ddeval.errors import InputError
from ddeval.project import find_project, output_folder


class RunsByDefault(typer.core.TyperGroup):
    """`ddeval audit RUN…` is `ddeval audit runs RUN…`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["runs", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=RunsByDefault,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Doubtful labels, duplicates and leaks, and the queue for vetting.",
    epilog="`ddeval audit RUN…` is short for `ddeval audit runs RUN…`.",
)


@app.command()
def runs(
    run: Annotated[list[Path], typer.Argument(help="Run folders; several checkpoints are combined.")],
    split: Annotated[str | None, typer.Option(help="Split to audit [the one the run was judged on].")] = None,
    folds: Annotated[
        int, typer.Option(help="Judge by heads fitted to the other folds' embeddings; 0: not.")
    ] = 0,
    as_given: Annotated[
        bool, typer.Option("--as-given", help="Train: the checkpoint never saw these images.")
    ] = False,
    labels: Annotated[
        str | None, typer.Option(help="Label overlay: v0 (the manifest's), v1, a file.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Manifest [the run's].")] = None,
    queue: Annotated[int, typer.Option(min=1, help="Cases in the queue, hidden repeats included.")] = N_QUEUE,
    mix: Annotated[
        str | None, typer.Option(help="Shares ranked,random,repeats [.2,.75,.05; train .75,.2,.05].")
    ] = None,
    after: Annotated[
        list[Path] | None, typer.Option(help="queue.parquet of an earlier batch: not chosen again.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option(help="Read the image files: compare them, keep small ones for the page.")
    ] = True,
    embeddings: Annotated[bool, typer.Option(help="Use the run's embeddings.")] = True,
    similarity: Annotated[
        float, typer.Option(help="Cosine from which embeddings are near-duplicates.")
    ] = SIMILARITY,
    images: Annotated[list[Path] | None, typer.Option(help="Folder images may lie in [manifest's].")] = None,
    fail_on: Annotated[
        Literal["issues", "leaks", "duplicates"] | None, typer.Option(help="Exit 1 when there are any.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the audit [RUN/audit].")] = None,
    photos: Annotated[bool, typer.Option("--photos", help="Put patients' photographs in the page.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the queue and the folds.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, nothing else.")] = False,
) -> None:
    """Rank the labels of a split by doubt, find duplicates and leaks, and draw the queue for vetting.

    Exit code 0, or 1 with --fail-on.

    Example: ddeval audit runs/gen2a_medsiglip-test-1a2b
    """
    from ddeval.cli.auditing import audit_runs, draw

    project = find_project()
    roots = images or (list(project.image_roots) if project else [])
    audited = audit_runs(
        run, split=split, labels=labels, data=data, n_folds=folds, as_given=as_given, n_queue=queue,
        mix=_mix(mix), earlier=after or [], with_pictures=pictures, with_embeddings=embeddings,
        similarity=similarity, image_roots=roots, out=out, seed=seed, progress=console.progress,
        note=console.note,
    )  # fmt: skip
    summary, page = audited.summary, draw(audited.folder, date=today(), photos=photos)
    n_found = {
        "issues": summary["n_disagreeing"],
        "leaks": summary["duplicates"]["n_leak"],
        "duplicates": summary["duplicates"]["n_pairs"],
        None: 0,
    }[fail_on]
    if as_json:
        console.say_json(summary | {"folder": str(audited.folder), "report": str(page)})
    else:
        _say(audited.folder, page, summary, audited.findings.issues.head(10))
    raise typer.Exit(1 if n_found else 0)


def _say(folder: Path, page: Path, summary: dict[str, Any], worst: Any) -> None:
    found = summary["duplicates"]
    console.say(
        f"{', '.join(summary['checkpoints'])}  ·  {summary['split']} {summary['n_images']:,} images, "
        f"{summary['n_cases']:,} cases  ·  labels {summary['labels']}"
    )
    rows = [
        [str(r["rank"]), f"{r['label_quality']:.3f}", r["given_label"], r["predicted_label"], r["image_id"]]
        for r in worst.to_dict("records")
    ]
    console.say(console.table(rows, header=["", "quality", "labelled", "likely", "image"]))
    console.say(
        f"labels                      {summary['n_disagreeing']:,} name another class than the model; "
        f"its guess is that about {summary['errors_expected']:,.0f} are wrong"
    )
    console.say(
        f"duplicates                  {found['n_pairs']:,} pairs: {found['n_leak']:,} across splits, "
        f"{found['n_contradictory']:,} with two labels"
    )
    counts = ", ".join(f"{n} {kind}" for kind, n in summary["queue"].items())
    console.say(f"queue                       {sum(summary['queue'].values())} cases: {counts}")
    console.say(f"                            {summary['rule']}")
    console.say(f"\naudit    {folder}")
    console.say(f"report   {page}")
    console.say(f"next     ddeval audit plan {folder} --readers 4   ·   ddeval vet open {folder}")


def _mix(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        ranked, random, repeats = (float(part) for part in text.split(","))
    except ValueError:
        ranked = random = repeats = -1.0
    if min(ranked, random, repeats) < 0 or abs(ranked + random + repeats - 1) > 1e-9:
        raise InputError(
            f"--mix {text}",
            "no three shares that sum to 1",
            expected="ranked,random,repeats",
            todo="Write for example --mix .2,.75,.05.",
        )
    return ranked, random, repeats


@app.command()
def page(
    audit: Annotated[Path, typer.Argument(help="Audit folder.")],
    batch: Annotated[str | None, typer.Option(help="Closed batch whose readers are drawn in.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Readings: a file or database URL [the project's].")
    ] = None,
    conditions: Annotated[
        Path | None, typer.Option(help="Conditions file [the project's, else the shipped one].")
    ] = None,
    photos: Annotated[bool, typer.Option("--photos", help="Put patients' photographs in the page.")] = False,
    out: Annotated[Path | None, typer.Option(help="HTML file [AUDIT/report.html].")] = None,
) -> None:
    """Draw the page of an audit again: with photographs, or with the readers of a closed batch in it.

    Example: ddeval audit page runs/gen2a_medsiglip-test-1a2b/audit --batch audit
    """
    from ddeval.cli.auditing import agreement, draw
    from ddeval.cli.vet import class_by_name, store_url

    readers = agreement(store_url(store), batch, class_of=class_by_name(conditions)) if batch else None
    console.say(f"report   {draw(audit, date=today(), photos=photos, out=out, readers=readers)}")


@app.command()
def plan(
    audit: Annotated[
        Path | None, typer.Argument(help="Audit folder [the only one among the project's runs].")
    ] = None,
    readers: Annotated[int, typer.Option(min=1, help="Readers of the evening.")] = 4,
    cases: Annotated[int, typer.Option(min=1, help="Cases each of them reads.")] = 120,
    reads: Annotated[int, typer.Option(min=1, help="Blind readings a case.")] = 2,
    disagreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of cases on which two readers differ.")
    ] = 0.30,
    minutes: Annotated[float, typer.Option(min=0.05, help="Minutes a reading takes.")] = 1.0,
    mix: Annotated[str | None, typer.Option(help="Shares ranked,random,repeats [the audit's].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw it plans with.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, nothing else.")] = False,
) -> None:
    """What an evening of vetting buys, before the first verdict: cases, hours, interval widths, classes.

    Example: ddeval audit plan runs/gen2a_medsiglip-test-1a2b/audit --readers 4 --cases 120 --reads 2
    """
    from ddeval.cli.auditing import planned

    folder = audit or _only_audit()
    found = planned(
        folder, readers=readers, cases=cases, reads=reads, disagreement=disagreement,
        minutes=minutes, mix=_mix(mix), seed=seed,
    )  # fmt: skip
    if as_json:
        console.say_json(found)
    else:
        _say_plan(found, readers, run=folder.parent)


def _only_audit() -> Path:
    """The one audit folder among the runs; an InputError lists them where there are more or none."""
    runs = output_folder("runs")
    there = sorted(path.parent for path in runs.glob("*/audit*/cases.parquet"))
    if len(there) == 1:
        return there[0]
    raise InputError(
        "ddeval audit plan",
        f"{len(there)} audits in {runs}" + (f" ({', '.join(map(str, there[:5]))})" if there else ""),
        expected="one audit to plan for",
        todo="Name its folder." if there else "Make one with: ddeval audit RUN.",
    )


def _say_plan(found: dict[str, Any], readers: int, *, run: Path) -> None:
    console.say(
        f"{readers} readers, {found['hours_per_reader']:.1f} h each: {found['n_readings']:,} readings\n"
        f"finished cases    {found['n_finished']:,} of {found['n_cases_of_split']:,} "
        f"({found['n_adjudications']:,} adjudications, {found['n_repeats']:,} hidden repeats in it)\n"
        f"accuracy          ± {50 * found['width_per_image']:.1f} points per image, "
        f"± {50 * found['width_per_case']:.1f} per case (95 % interval)\n"
        f"wrong labels      about {found['errors_expected']:,.0f} found, "
        f"{found['errors_expected_ranked']:,.0f} of them among the {found['n_ranked']:,} ranked; "
        f"about {found['errors_expected_in_split']:,.0f} in the split"
    )
    rows = [
        [r["class_name"], f"{r['n_cases']:,}", f"{r['n_vetted']:.0f}", _class_width(r)]
        for r in found["classes"]
    ]
    console.say(console.table(rows, header=["class (as labelled)", "cases", "vetted", "accuracy"]))
    assumed = found["assumed"]
    console.say(
        f"assumed: readers differ on {100 * assumed['disagreement']:.0f} % of cases, "
        f"{assumed['minutes_per_reading']:g} min a reading; the first batch replaces both"
    )
    name = run if (run / "run.json").is_file() else "RUN"  # an audit with --out lies elsewhere
    console.say(f"\nnext     ddeval audit {name} --queue {found['n_queue']}")


def _class_width(row: dict[str, Any]) -> str:
    return "hopeless" if row["verdict"] == "hopeless" else f"± {50 * row['width']:.0f} points"
