"""The loop, closed: score → audit → vet → train → score, on drawn data, by what the commands call.

    OUT/data  models  folds  runs  labels     as the commands leave them; readings.db is the store
    OUT/loop.html, OUT/loop/                  the comparison page and its tables
    OUT/loop.json                             what `ddeval demo --json` prints

Two queues, never mixed: one of the training split, judged out of fold, whose vetted labels are learnt from,
and one of the test split, which only estimates. The truth that was planted is read by the simulated readers'
eyes (`ddeval.vet.simulated`) and by `planted_accuracy`, by no stage.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddeval.errors import InputError

if TYPE_CHECKING:
    from ddeval.config import Config

SYSTEMS = {"demo": (), "photos": ("name=photos", "model.feature_schema=null")}
"""Name -> what differs from configs/demo.yaml: with the questionnaire, and photographs alone."""
VETTED = "-vetted"
"""Ending of the names of the systems that were trained on vetted labels."""


Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, or the `map` of a pool of processes."""


class Plan(NamedTuple):
    """How large the loop is."""

    seed: int = 0
    n_patients: int = 1000
    epochs: int | None = None
    """As the config says where None."""
    n_folds: int = 4
    n_train_queue: int = 300
    n_test_queue: int = 160
    n_readers: int = 12
    error_rate: float = 0.08
    """Of one reading; adjudicators are wrong half as often."""
    n_resamples: int = 2000


def closed_loop(
    out: Path,
    plan: Plan = Plan(),
    *,
    date: str,
    jobs: int = 2,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Go through the whole loop in `out` and give what `ddeval demo --json` prints.

    What `out` holds finished is not made again; the same plan gives the same numbers, whatever `jobs`.

    Parameters
    ----------
    date : str
        Of the page.
    jobs : int
        Training runs side by side, one thread each; 1 runs them in this process.
    """
    from ddeval import io
    from ddeval.cli.auditing import audit_runs
    from ddeval.data.demo import make_demo

    _refuse_another(out, plan)
    manifest = out / "data" / "manifest.csv"
    if not manifest.is_file():
        note("drawing the embedded data set (SYNTHETIC)")
        make_demo(manifest.parent, seed=plan.seed, n_patients=plan.n_patients)
    with _side_by_side(jobs) as mapper:
        note("training two systems on the labels as given, and scoring them")
        before = _train_and_score(mapper, out, plan, overlay=None)
        note("auditing the test split, for an estimate")
        test = audit_runs(before, n_queue=plan.n_test_queue, seed=plan.seed, with_pictures=False)
        test_labels = vet(manifest, test.folder, "test", out, plan, note=note)
        note(f"judging the training labels out of fold ({plan.n_folds} training runs)")
        judged = _out_of_fold(mapper, out, plan)
        train = audit_runs(
            [judged], as_given=True, n_queue=plan.n_train_queue, seed=plan.seed, with_pictures=False
        )
        train_labels = vet(manifest, train.folder, "train", out, plan, note=note)
        note("training both systems again on the vetted labels, and scoring them")
        after = _train_and_score(mapper, out, plan, overlay=train_labels)
    rows = [three_ways(run, manifest, test_labels, test.folder, plan) for run in (*before, *after)]
    queues = [
        _queue(manifest, split, labels, audited.folder)
        for split, labels, audited in (("test", test_labels, test), ("train", train_labels, train))
    ]
    result = {
        "seed": plan.seed,
        "is_synthetic": True,
        "readers": {"n": plan.n_readers, "error_rate": plan.error_rate, "readings_a_case": 2},
        "systems": rows,
        "queues": queues,
        "report": "loop.html",
    }
    _page(
        out, [*before, *after], rows, queues, plan,
        test_labels=test_labels, audit=test.folder, date=date, note=note,
    )  # fmt: skip
    io.write_json(out / "loop.json", result)
    return result


def planted_accuracy(run: Path, manifest: Path) -> tuple[float, int]:
    """Closed-set top-1 against the planted truth, and over how many images: what `ddeval truth` estimates.

    Over the test images of cases that a reader without error gives a target class.
    """
    import pandas as pd

    from ddeval.metrics.readings import closed_set
    from ddeval.score.predictions import read_predictions
    from ddeval.vet.simulated import true_verdicts

    said = read_predictions(run / "predictions.parquet")
    said = said.rows(said.frame["split"].eq("test").to_numpy())
    verdict = said.frame["case_id"].map(true_verdicts(manifest))
    codes = pd.Index(said.class_names).get_indexer(pd.Index(verdict))
    has_verdict = codes >= 0
    _, labels, probs = closed_set(codes[has_verdict], said.pred_probs()[has_verdict], said.other)
    return float((probs.argmax(axis=1) == labels).mean()), len(labels)


def _refuse_another(out: Path, plan: Plan) -> None:
    """Begin `out`, or go on with it; an InputError where it holds something else."""
    from ddeval import io

    path, told = out / "plan.json", plan._asdict()
    if path.is_file() and io.read_json(path) != told:
        raise InputError(str(out), "a loop with other settings", expected="a new folder", todo="Pass --out.")
    if not path.is_file() and out.is_dir() and any(out.iterdir()):
        raise InputError(str(out), "a folder that is not empty", expected="a new folder", todo="Pass --out.")
    io.write_json(path, told)


@contextmanager
def _side_by_side(jobs: int) -> Iterator[Mapper]:
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _config(plan: Plan, name: str, *, is_vetted: bool = False) -> tuple["Config", Path]:
    from ddeval.config import find_config, read_config

    path = find_config("demo")
    if path is None:
        raise InputError("configs", "no demo.yaml", expected="the shipped configs", todo="Reinstall ddeval.")
    changes = [*SYSTEMS[name], f"train.seed={plan.seed}"]
    if plan.epochs is not None:
        changes.append(f"train.epochs={plan.epochs}")
    if is_vetted:
        changes.append(f"name={name}{VETTED}")
    config: Config = read_config(path, changes=changes)
    return config, path


def _train_and_score(mapper: Mapper, out: Path, plan: Plan, *, overlay: Path | None) -> list[Path]:
    """Run folder of each system, trained on the labels as given or under an overlay."""
    return list(mapper(partial(_one_system, out, plan, overlay), SYSTEMS))


def _one_system(out: Path, plan: Plan, overlay: Path | None, name: str) -> Path:
    from ddeval.data.overlay import read_overlay
    from ddeval.models.checkpoint import load_checkpoint
    from ddeval.score.run import score
    from ddeval.train.loop import train

    config, path = _config(plan, name, is_vetted=overlay is not None)
    manifest = out / "data" / "manifest.csv"
    train(
        config, manifest, out / "models" / config.name,
        overlay=read_overlay(overlay) if overlay else None, config_path=path,
    )  # fmt: skip
    return score(
        load_checkpoint(out / "models" / config.name), manifest, out=out / "runs" / config.name, workers=1
    )


def _out_of_fold(mapper: Mapper, out: Path, plan: Plan) -> Path:
    from ddeval.train.folds import train_folds

    config, path = _config(plan, "demo")
    return train_folds(
        config,
        out / "data" / "manifest.csv",
        out / "folds",
        n_folds=plan.n_folds,
        config_path=path,
        mapper=mapper,
    )


def vet(
    manifest_path: Path,
    audit: Path,
    split: str,
    out: Path,
    plan: Plan,
    *,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Overlay of an audit's queue: read blind by simulated readers, twice a case, settled where they differ.

    Parameters
    ----------
    out : Path
        Gets readings.db and labels/; a batch that was closed there is not read again.
    """
    from ddeval import io
    from ddeval.cli.serving import vet_app
    from ddeval.config import config_file
    from ddeval.data.conditions import read_conditions
    from ddeval.data.fields import read_schema
    from ddeval.data.manifest import manifest_sha256, read_manifest
    from ddeval.vet.batches import close_batch, open_batch
    from ddeval.vet.export import freeze
    from ddeval.vet.simulated import make_eyes, panel, read_blind
    from ddeval.vet.store import Store

    manifest = read_manifest(manifest_path)
    queue = io.read_parquet(audit / "queue.parquet")[0]
    store = Store(out / "readings.db")
    desk = vet_app("desk").Desk(
        store=store,
        manifest=manifest,
        image_roots=(manifest_path.parent,),
        conditions=read_conditions(config_file("conditions.yaml", where="conditions")),
        schema=read_schema(config_file("feature_schema.json", where="schema")),
        cache=manifest_path.parent / "photographs",
        is_synthetic=True,
    )
    try:
        batch = open_batch(
            store, queue, name=split, split=split, seed=plan.seed, manifest_sha256=manifest_sha256(manifest)
        )
        if batch.is_open:
            note(f"{plan.n_readers} simulated readers read {len(queue)} cases of {split} blind")
            readers, adjudicators = panel(plan.n_readers, error_rate=plan.error_rate, seed=plan.seed)
            eyes = make_eyes(desk, manifest_path, list(queue["case_id"]))
            read_blind(desk, batch, readers, adjudicators, eyes)
            close_batch(store, split, actor="admin")
        return freeze(store, [split], manifest=manifest, class_of=desk.class_of, folder=out / "labels")
    finally:
        store.close()


def three_ways(run: Path, manifest: Path, labels: Path, audit: Path, plan: Plan) -> dict[str, Any]:
    """The three accuracies of a run: on the labels as given, against the vetted reference, planted."""
    from ddeval.cli.auditing import measured
    from ddeval.score.evaluate import evaluate

    raw = evaluate(run, n_resamples=plan.n_resamples, seed=plan.seed)["metrics"]["top_1_accuracy"]
    truth = measured(run, labels=str(labels), audits=[audit], overlays=labels.parent)
    (vetted,) = (
        e
        for e in truth["estimates"]
        if (e["metric"], e["rule"], e["unit"]) == ("top_1_accuracy", "strict", "image")
    )
    planted, n_planted = planted_accuracy(run, manifest)
    ends = ("value", "ci_low", "ci_high")
    return {
        "run": run.name,
        "system": run.name.removesuffix(VETTED),
        "is_retrained": run.name.endswith(VETTED),
        "as_given": {name: raw[name] for name in ends},
        "vetted": {name: vetted[name] for name in (*ends, "n_vetted")},
        "planted": {"value": planted, "n_images": n_planted},
        "interval_holds_planted": bool(vetted["ci_low"] <= planted <= vetted["ci_high"]),
    }


def _queue(manifest: Path, split: str, labels: Path, audit: Path) -> dict[str, Any]:
    """What a queue found, case by case, and how much of it was planted."""
    from ddeval import io
    from ddeval.data.demo import read_truth
    from ddeval.data.manifest import read_manifest
    from ddeval.data.overlay import read_overlay

    cases = read_overlay(labels).frame.drop_duplicates("case_id").set_index("case_id")
    truth = read_truth(manifest).drop_duplicates("case_id").set_index("case_id")
    of_split = read_manifest(manifest).query("split == @split")["case_id"].unique()
    relabelled = cases.index[cases["outcome"] == "relabel"]
    is_wrong = truth["is_wrong"]
    items = io.read_parquet(audit / "queue.parquet")[0]
    return {
        "split": split,
        "use": "estimate" if split == "test" else "training",
        "n_cases": len(cases),
        "n_repeats": int((items["kind"] == "repeat").sum()),
        "n_adjudicated": int((cases["rule"] == "adjudicated").sum()),
        "n_without_label": int(cases["labels"].map(len).eq(0).sum()),
        "n_relabelled": len(relabelled),
        "n_relabelled_rightly": int(is_wrong.loc[relabelled].sum()),
        "n_wrong_read": int(is_wrong.loc[cases.index].sum()),
        "n_wrong_planted": int(is_wrong.loc[of_split].sum()),
    }


def _page(
    out: Path,
    runs: Sequence[Path],
    rows: Sequence[dict[str, Any]],
    queues: Sequence[dict[str, Any]],
    plan: Plan,
    *,
    test_labels: Path,
    audit: Path,
    date: str,
    note: Callable[[str], None],
) -> None:
    """The comparison of the systems before and after, with the loop's own two tables on its page."""
    import pandas as pd

    from ddeval.report.compare_page import write_compare_report
    from ddeval.score import comparison_folder

    first = next(iter(SYSTEMS))
    asked = comparison_folder.Asked(
        tuple(runs), baseline=first, candidate=first + VETTED, seed=plan.seed, n_resamples=plan.n_resamples,
        versions=(test_labels,), audits=(audit,), readings=test_labels.parent / "readings" / test_labels.name,
    )  # fmt: skip
    made = comparison_folder.compared(asked, note=note)
    made.tables["loop"] = pd.json_normalize(list(rows), sep="_")
    made.tables["loop_queues"] = pd.DataFrame(queues)
    comparison_folder.write(made, out / "loop", note=note)
    write_compare_report(out / "loop", out / "loop.html", date=date)
