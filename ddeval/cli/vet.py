"""`ddeval vet`: queues opened for reading, the app, and readings frozen into labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ddeval.cli import console
from ddeval.errors import InputError
from ddeval.project import conditions_path, find_project

if TYPE_CHECKING:
    import pandas as pd

    from ddeval.data.conditions import Conditions
    from ddeval.vet.store import Store

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Queue to readings to labels: open a batch, serve the app, freeze what was read.",
)
user = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Who may read, adjudicate and administer."
)
app.add_typer(user, name="user")

StoreOption = Annotated[
    str | None, typer.Option("--store", help="Database path or URL [the project's, else readings.db].")
]
DataOption = Annotated[Path | None, typer.Option("--data", help="Manifest [the project's].")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]
ConditionsOption = Annotated[
    Path | None, typer.Option("--conditions", help="Conditions file [the project's, else the shipped one].")
]


@app.command("open")
def open_(
    queue: Annotated[Path, typer.Argument(help="Audit folder, or a queue alone.")],
    data: DataOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the batch [the folder's or file's].")] = None,
    split: Annotated[str | None, typer.Option(help="Split of its cases [read from the manifest].")] = None,
    reads: Annotated[int, typer.Option(min=1, max=8, help="Blind readings a case.")] = 2,
    readers: Annotated[
        list[str] | None, typer.Option("--reader", help="Assign it to this code alone; may be repeated.")
    ] = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show readers labels and model once the batch is closed.")
    ] = False,
    practice: Annotated[int, typer.Option(min=0, help="Cases each reader practises on first.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of every reader's own order.")] = 0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a queue before the readers; from an audit folder its duplicates come along, to be decided.

    Example: ddeval vet open runs/gen2a-test-1a2b/audit
    """
    import numpy as np

    from ddeval.cli.serving import read_queue
    from ddeval.data.manifest import manifest_sha256, with_cases
    from ddeval.vet.batches import open_batch, practice_cases, read_batches

    as_given = _manifest(data)
    manifest = with_cases(as_given)
    frame, metadata, pairs = read_queue(queue, manifest)
    n_pairs = 0 if pairs is None else len(pairs)
    cases = manifest.drop_duplicates("case_id").set_index("case_id")
    strangers = frame.loc[~frame["case_id"].isin(cases.index), "case_id"]
    if len(strangers):
        raise InputError(
            str(queue),
            f"case {strangers.iloc[0]!r}, which the manifest lacks ({len(strangers)} such)",
            expected="cases of this manifest",
            todo="Pass the manifest the run was scored on with --data.",
        )
    held = set(frame["case_id"].map(cases["split"]).dropna())
    if split is None and len(held) != 1:
        raise InputError(
            str(queue),
            f"cases of {'splits ' + ', '.join(sorted(held)) if held else 'no split'}",
            expected="one split: each has rules of its own",
            todo="Say which with --split, or make a queue a split.",
        )
    for column in ("label", "label_basis"):
        target = "given_label" if column == "label" else column
        if target not in frame and column in cases:
            frame[target] = frame["case_id"].map(cases[column])
    practised = practice_cases(manifest, frame, n=practice, rng=np.random.default_rng(seed))
    opened, called = _store(store), name or str(metadata.get("name") or queue.stem)
    is_there = called in {batch.name for batch in read_batches(opened)}
    batch = open_batch(
        opened,
        frame,
        name=called,
        split=split or held.pop(),
        seed=seed,
        manifest_sha256=manifest_sha256(as_given),
        readings_per_case=reads,
        settings={"practice_cases": practised}
        | {k: metadata[k] for k in ("proposers",) if k in metadata}
        | ({"readers": readers} if readers else {})
        | ({"reveal": "after_close"} if reveal else {}),
        pairs=pairs,
    )
    if not batch.is_open:
        raise InputError(
            f"batch {batch.name}",
            f"a batch that was closed on {str(batch.closed_utc)[:10]}",
            expected="one that still takes readings, or a new name",
            todo=f"Its readings stand: ddeval vet freeze {batch.name}. To have its cases read anew: --name "
            f"{batch.name}-2. For other cases: ddeval audit RUN --after QUEUE --out FOLDER.",
        )
    if is_there and not as_json:
        console.say(f"batch {batch.name} is open already: nothing was changed")
    n_cases = int((frame["kind"] != "repeat").sum())
    n_repeats = len(frame) - n_cases
    practised = batch.settings["practice_cases"] if is_there else practised
    if as_json:
        console.say_json(
            {
                "batch": batch.name,
                "split": batch.split,
                "n_cases": n_cases,
                "n_repeats": n_repeats,
                "n_pairs": n_pairs,
                "n_practice": len(practised),
            }
        )
        return
    console.say(
        f"batch {batch.name}: {n_cases:,} cases of {batch.split}, {batch.readings_per_case} readings each, "
        f"{len(practised)} to practise on, {n_repeats} hidden repeats, {n_pairs} pairs of photographs"
    )
    console.say("next     ddeval vet user add CODE --role reader   ·   ddeval vet serve")


@app.command()
def close(
    name: Annotated[str, typer.Argument(help="Batch to close.")],
    by: Annotated[str, typer.Option("--by", help="Code of whoever closes it.")] = "admin",
    conditions: ConditionsOption = None,
    store: StoreOption = None,
) -> None:
    """Take no more readings of a batch, for good; only then may its labels be shown and frozen.

    Example: ddeval vet close audit
    """
    from ddeval.vet.batches import close_batch, read_batch, read_batches
    from ddeval.vet.outcomes import batch_status

    opened = _store(store)
    row = batch_status(opened, read_batch(opened, name), class_of=class_by_name(conditions))
    batch = close_batch(opened, name, actor=by)
    left = row["n_to_adjudicate"]
    console.say(
        f"batch {name} is closed: {row['n_complete']:,}/{row['n_cases']:,} cases read"
        + (f", {left:,} on which readers differ stay unresolved" if left else "")
    )
    closed = [b.name for b in reversed(read_batches(opened)) if b.split == batch.split and not b.is_open]
    console.say(f"next     ddeval vet freeze {' '.join(closed)}")


@app.command()
def serve(
    data: DataOption = None,
    images: Annotated[list[Path] | None, typer.Option(help="Folder images may lie in [manifest's].")] = None,
    conditions: ConditionsOption = None,
    schema: Annotated[
        Path | None, typer.Option(help="Questionnaire [the project's, else the shipped].")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="The embedded data set with two demo readers.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    public_url: Annotated[str, typer.Option(help="Address readers type, e.g. https://host/vet.")] = "",
    proxy: Annotated[
        list[str] | None, typer.Option(help="Network of a proxy to believe, e.g. 10.0.0.0/8.")
    ] = None,
    expose: Annotated[
        bool, typer.Option("--expose", help="Allow another address than this machine's.")
    ] = False,
    oidc_issuer: Annotated[
        str, typer.Option(help="OpenID provider; its client secret is $DDEVAL_OIDC_SECRET.")
    ] = "",
    oidc_client: Annotated[str, typer.Option(help="Client id of this server at the provider.")] = "",
    store: StoreOption = None,
) -> None:
    """Serve the vetting app until Ctrl-C.

    Example: ddeval vet serve --demo
    """
    from ddeval.cli.serving import demo_desk, project_desk, run, sign_on
    from ddeval.vet.outcomes import check_labels

    desk = (
        demo_desk(console.say)
        if demo
        else project_desk(_store(store), _manifest(data), data, images or [], _conditions(conditions), schema)
    )
    for batch in desk.open_batches():  # before an evening of reading, not after it
        check_labels(desk.store, batch, class_of=desk.class_of)
    run(
        desk,
        host=host,
        port=port,
        public_url=public_url,
        trusted_proxies=tuple(proxy or ()),
        is_exposed_on_purpose=expose,
        sign_on=sign_on(oidc_issuer, oidc_client),
        say=console.say,
    )


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="Batch [all].")] = None,
    conditions: ConditionsOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """How far each batch is: cases done, waiting for adjudication, readings by reader.

    Example: ddeval vet status
    """
    from ddeval.vet.batches import read_batch, read_batches
    from ddeval.vet.outcomes import batch_status
    from ddeval.vet.reading import reports

    opened = _store(store)
    class_of = class_by_name(conditions)
    batches = [read_batch(opened, name)] if name else read_batches(opened)
    found = [batch_status(opened, batch, class_of=class_of) for batch in batches]
    if as_json:
        console.say_json(found)
        return
    if not found:
        console.say("no batch yet\nnext     ddeval vet open QUEUE")
    for row in found:
        console.say(
            f"{row['batch']}  ·  {row['split']}  ·  {'open' if row['is_open'] else 'closed'}  ·  "
            f"{row['n_complete']:,}/{row['n_cases']:,} cases read, {row['n_to_adjudicate']} to adjudicate, "
            f"{row['n_reported']} reported"
        )
        for reader, n in row["readings"].items():
            console.say(f"  {reader:20} {n:,} readings")
        for report in reports(opened, str(row["batch"])).itertuples():
            console.say(f"  case {report.case_id} reported by {report.reader}: {report.reason}")


@app.command()
def freeze(
    names: Annotated[list[str], typer.Argument(help="Closed batches of one split.")],
    data: DataOption = None,
    conditions: ConditionsOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the overlays [labels].")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the numbered label overlay of closed batches; freezing the same readings again changes nothing.

    Example: ddeval vet freeze audit
    """
    from ddeval import io
    from ddeval.data.overlay import read_overlay
    from ddeval.data.withdrawal import has_tombstones
    from ddeval.io import local
    from ddeval.score.numbers import OVERLAYS
    from ddeval.vet.export import freeze as run

    manifest = _manifest(data)
    path = run(
        _store(store),
        names,
        manifest=manifest,
        class_of=class_by_name(conditions),
        folder=out or OVERLAYS,
        may_lack=has_tombstones(local(_manifest_path(data)).parent),
    )
    overlay = read_overlay(path)
    counts = overlay.frame["outcome"].value_counts()
    if as_json:
        console.say_json(
            {
                "overlay": path,
                "version": overlay.version,
                "outcomes": counts.to_dict(),
                "sha256": io.file_sha256(path),
            }
        )
        return
    console.say(f"{path}: {', '.join(f'{n:,} {outcome}' for outcome, n in counts.items())} images")
    if overlay.split == "test":
        console.say(
            f"next     ddeval score RUN --labels {overlay.version}   ·   "
            f"ddeval truth RUN --labels {overlay.version}"
        )
    else:
        console.say(f"next     ddeval train CONFIG --labels {overlay.version}")


@app.command()
def export(
    overlay: Annotated[Path, typer.Argument(help="A frozen overlay.")],
    out: Annotated[Path, typer.Option(help="CSV, Parquet or JSONL file to write.")],
    as_source: Annotated[
        Path | None, typer.Option(help="YAML: `columns` and `labels`, ours to yours; without it ours.")
    ] = None,
) -> None:
    """Write an overlay as a table, in your own column names and label strings where a mapping is given.

    Example: ddeval vet export labels/train-v1.parquet --out vetted.csv
    """
    from ddeval import io
    from ddeval.config import read_yaml
    from ddeval.data.overlay import read_overlay
    from ddeval.vet.export import as_source as translate

    frame = read_overlay(overlay).frame
    if as_source is not None:
        words = read_yaml(as_source)
        frame = translate(frame, columns=words.get("columns") or {}, labels=words.get("labels") or {})
    if out.suffix == ".parquet":
        io.write_parquet(out, frame)
    elif out.suffix == ".jsonl":
        io.write_text(out, "".join(io.to_json_line(row) + "\n" for row in frame.to_dict("records")))
    else:
        flat = frame.copy()
        for column in ("labels", "readers", "first_answers"):
            if column in flat:
                flat[column] = [io.to_json_line(list(cell)) for cell in flat[column]]
        io.write_csv(out, flat)
    console.say(f"{out}: {len(frame):,} images")


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="An overlay.")],
    after: Annotated[Path, typer.Argument(help="A later one.")],
    as_json: JsonOption = False,
) -> None:
    """What changed between two overlays, image by image.

    Example: ddeval vet diff labels/test-v1.parquet labels/test-v2.parquet
    """
    from ddeval.data.overlay import changes, read_overlay

    found = changes(read_overlay(before), read_overlay(after))
    if as_json:
        console.say_json(found.to_dict("records"))
        return
    for row in found.to_dict("records"):
        console.say(f"{row['image_id']}  {row['field']}: {row['before'] or '-'} -> {row['after'] or '-'}")
    console.say(f"{found['image_id'].nunique():,} images changed")


@app.command()
def release(
    batch: Annotated[str, typer.Argument(help="Batch of the case.")],
    case_id: Annotated[str, typer.Argument(help="Reported case.")],
    reason: Annotated[str, typer.Option(help="What was found and done.")],
    by: Annotated[str, typer.Option("--by", help="Code of the admin.")] = "admin",
    store: StoreOption = None,
) -> None:
    """Put a reported case back before the readers.

    Example: ddeval vet release audit C-17 --reason "no name visible"
    """
    from ddeval.vet.reading import release as run

    run(_store(store), batch, case_id, actor=by, reason=reason)
    console.say(f"case {case_id} is back in {batch}")


@app.command()
def verify(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Recompute the hash chain of every event; exit 1 if one was changed, removed or put in.

    Example: ddeval vet verify
    """
    from ddeval.vet.store import Store

    report = Store(store_url(store)).verify()
    if as_json:
        console.say_json({"n_events": report.n_events, "head": report.head, "first_bad": report.first_bad})
    elif report.is_intact:
        console.say(f"{report.n_events:,} events, each follows from the one before; head {report.head}")
    else:
        console.say(f"event {report.first_bad} does not follow from the {report.n_events:,} before it")
    raise typer.Exit(0 if report.is_intact else 1)


@app.command()
def backup(out: Annotated[Path, typer.Argument(help="File to write.")], store: StoreOption = None) -> None:
    """A consistent copy of an SQLite store, also while readers read.

    Example: ddeval vet backup backup.db
    """
    opened = _store(store)
    opened.backup(out)
    console.say(f"{out}: {opened.verify().n_events:,} events")


@user.command("add")
def user_add(
    code: Annotated[str, typer.Argument(help="Short code that does not name the person.")],
    role: Annotated[
        Literal["reader", "adjudicator", "admin"], typer.Option(help="What they may do.")
    ] = "reader",
    name: Annotated[str | None, typer.Option(help="Kept in the accounts table alone.")] = None,
    email: Annotated[str | None, typer.Option(help="For log-in by OIDC.")] = None,
    qualification: Annotated[str | None, typer.Option(help="Reported with every estimate.")] = None,
    store: StoreOption = None,
) -> None:
    """Create an account and print its one-time invitation.

    Example: ddeval vet user add R1 --role reader --qualification "dermatologist, 8 years"
    """
    from ddeval.vet.accounts import invite

    token = invite(_store(store), code, role=role, name=name, email=email, qualification=qualification)
    console.say(f"{code}: open /link/{token} on the server within 72 hours and choose a password")


@user.command("list")
def user_list(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """All accounts by code.

    Example: ddeval vet user list
    """
    from ddeval.vet.accounts import accounts

    found = accounts(_store(store))
    if as_json:
        console.say_json([vars(account) for account in found])
        return
    for account in found:
        console.say(
            f"{account.code:20} {account.role:12} {'' if account.is_active else 'disabled':9} "
            f"{account.qualification or ''}"
        )


@user.command("reset")
def user_reset(code: Annotated[str, typer.Argument()], store: StoreOption = None) -> None:
    """Print a one-time link for a new password; links before it stop working.

    Example: ddeval vet user reset R1
    """
    from ddeval.vet.accounts import reset_link

    console.say(f"{code}: open /link/{reset_link(_store(store), code)} on the server within 2 hours")


@user.command("disable")
def user_disable(code: Annotated[str, typer.Argument()], store: StoreOption = None) -> None:
    """Disable an account; its sessions end at once, its readings stay.

    Example: ddeval vet user disable R1
    """
    from ddeval.vet.accounts import set_active

    set_active(_store(store), code, is_active=False)
    console.say(f"{code} is disabled")


@user.command("enable")
def user_enable(code: Annotated[str, typer.Argument()], store: StoreOption = None) -> None:
    """Enable a disabled account.

    Example: ddeval vet user enable R1
    """
    from ddeval.vet.accounts import set_active

    set_active(_store(store), code, is_active=True)
    console.say(f"{code} is enabled")


@user.command("forget")
def user_forget(code: Annotated[str, typer.Argument()], store: StoreOption = None) -> None:
    """Erase a person's name, address and password; the trail keeps the code.

    Example: ddeval vet user forget R1
    """
    from ddeval.vet.accounts import forget_person

    forget_person(_store(store), code)
    console.say(f"{code}: name, address and password are erased")


def store_url(store: str | None) -> str:
    """The store named, else the project's, else readings.db."""
    project = find_project()
    return store or (project.store if project else "readings.db")


def _store(store: str | None) -> "Store":
    from ddeval.vet.store import Store

    return Store(store_url(store))


def _manifest(data: Path | None) -> "pd.DataFrame":
    from ddeval.data.manifest import read_manifest

    return read_manifest(_manifest_path(data))


def _manifest_path(data: Path | None) -> Path:
    project = find_project()
    path = data or (project.manifest if project else None)
    if path is None:
        raise InputError(
            "--data",
            "no manifest",
            expected="one",
            todo="Pass --data manifest.csv, or make a project: ddeval init DATA.",
        )
    return path


def _conditions(path: Path | None) -> "Conditions":
    from ddeval.config import config_file
    from ddeval.data.conditions import read_conditions

    return read_conditions(conditions_path(path) or config_file("conditions.yaml", where="--conditions"))


def class_by_name(path: Path | None) -> dict[str, str]:
    """Class of each diagnosis of the conditions file."""
    return {diagnosis.name: diagnosis.class_name for diagnosis in _conditions(path).diagnoses}
