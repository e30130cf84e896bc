"""An audit from run folders to its own folder: what `ddeval audit` and the demo's loop both call.

    RUN/audit/   issues, duplicates, off_topic, health, overlap, cases, queue (Parquet), audit.json,
                 thumbnails of what the page shows, and report.html

`queue.parquet` goes to `ddeval vet open`; `cases.parquet` holds every case of the split with its stratum and
probability, which `ddeval truth` needs.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddeval.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from ddeval.audit.findings import Findings

N_QUEUE = 200
TRUTH_FILE = "truth.json"
PAGE_FILE = "report.html"
SIMILARITY = 0.995
"""Cosine of two embeddings from which on they are listed as near-duplicates."""
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def _silent(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda n: None)


class Subject(NamedTuple):
    """The images of one split under one or several checkpoints."""

    split: str
    version: str
    manifest_path: Path
    rows: "pd.DataFrame"
    """(N) rows of the manifest: the labelled images of the split."""
    labels: "npt.NDArray[np.int64]"
    members: "dict[str, npt.NDArray[np.float64]]"
    """(N, K) probabilities by checkpoint."""
    class_names: tuple[str, ...]
    features: "npt.NDArray[np.float32] | None"
    """(N, E) embeddings of the first run."""
    manifest: "pd.DataFrame"
    """All images, of every split."""
    embedded: "tuple[npt.NDArray[np.object_], npt.NDArray[np.float32]] | None"
    """Ids and embeddings of all images of the first run, of every split in it."""
    is_synthetic: bool
    n_unlabelled: int
    notes: tuple[str, ...]


class Audited(NamedTuple):
    """What `audit_runs` did."""

    folder: Path
    summary: dict[str, Any]
    """audit.json."""
    findings: "Findings"
    duplicates: "pd.DataFrame"
    """DUPLICATES, leaks first (`ddeval.audit.duplicates.duplicate_table`)."""


def audit_runs(
    runs: Sequence[Path],
    *,
    split: str | None = None,
    labels: str | None = None,
    data: Path | None = None,
    n_folds: int = 0,
    as_given: bool = False,
    n_queue: int = N_QUEUE,
    mix: tuple[float, float, float] | None = None,
    earlier: Sequence[Path] = (),
    with_pictures: bool = True,
    with_embeddings: bool = True,
    similarity: float = SIMILARITY,
    image_roots: Sequence[Path] = (),
    out: Path | None = None,
    seed: int = 0,
    progress: Progress = _silent,
    note: Callable[[str], None] = lambda line: None,
) -> Audited:
    """Audit one split under one or several runs and write the audit folder.

    Parameters
    ----------
    runs : run folders
        Several checkpoints on the same images are combined.
    split : str, optional
        The split the runs were judged on, where not given.
    n_folds : int
        Judge each image by a head fitted to the embeddings of the other folds (groups whole); 0 takes the
        run's own probabilities, which for train must be asked for with `as_given`.
    n_queue, mix : int and shares (ranked, random, repeats)
        The queue; the mix is the split's own where None.
    earlier : paths of queue.parquet
        Batches handed out before; their cases are not chosen again.
    with_pictures, with_embeddings : bool
        Look for copies among the image files of the whole manifest; use embeddings.
    out : Path, optional
        `RUN/audit` where None; `RUN/audit-<split>` for another split than the run's.

    Raises
    ------
    InputError
        If the runs do not fit together, or a train split would be audited with its own model.
    """
    import numpy as np

    from ddeval import io
    from ddeval.audit.findings import findings
    from ddeval.audit.queue import MIXES, RULES, Mix

    subject = _subject(runs, split=split, labels=labels, data=data, with_embeddings=with_embeddings)
    folder = out or runs[0] / ("audit" if split is None else f"audit-{subject.split}")
    if any(path.resolve().parent == folder.resolve() for path in earlier):
        raise InputError(
            str(folder),
            "the audit whose queue this one is to follow: it would be replaced, and truth needs it",
            expected="another folder",
            todo=f"Pass --out {folder}-2.",
        )
    for line in subject.notes:
        note(line)
    rng = np.random.default_rng([seed, 0])
    if n_folds:
        members = _out_of_fold(runs, subject, n_folds=n_folds, rng=np.random.default_rng([seed, 1]))
        subject = _judged(subject, members, n_folds=n_folds, note=note)
    elif subject.split == "train" and not as_given:
        raise InputError(
            "--split train",
            "probabilities of a checkpoint that may have learnt these labels: it believes the wrong ones",
            expected="out-of-fold probabilities",
            todo="Pass --folds 5, or --as-given if the checkpoint never saw these images.",
        )
    shares = Mix(*mix) if mix else MIXES.get(subject.split, MIXES["test"])
    found = findings(
        subject.rows,
        subject.labels,
        subject.members,
        class_names=subject.class_names,
        features=subject.features,
        n_queue=n_queue,
        mix=shares,
        rng=rng,
        earlier=[io.read_parquet(path)[0] for path in earlier],
    )
    duplicates, n_unread = _duplicates(
        subject, with_pictures, similarity, image_roots=image_roots, progress=progress, note=note
    )
    summary = _summary(runs, subject, found, duplicates) | {
        "n_folds": n_folds,
        "n_pictures_not_read": n_unread,
        "seed": seed,
        "mix": shares._asdict(),
        "rule": RULES.get(subject.split, RULES["test"]),
        "earlier": [str(path) for path in earlier],
    }
    if with_pictures and "image" in subject.manifest:
        found, duplicates = _with_thumbnails(folder, subject, found, duplicates, image_roots=image_roots)
    _write(folder, summary, found, duplicates)
    return Audited(folder, summary, found, duplicates)


def _subject(
    runs: Sequence[Path], *, split: str | None, labels: str | None, data: Path | None, with_embeddings: bool
) -> Subject:
    import numpy as np
    import pandas as pd

    from ddeval.data.manifest import with_cases
    from ddeval.score.joined import run_names
    from ddeval.score.numbers import judged_rows, label_codes

    read = [judged_rows(run, labels, manifest=data) for run in runs]
    first = read[0]
    wanted = split or _one_split(first.all_predictions.frame["split"], first.splits, where=str(runs[0]))
    names = first.predictions.class_names
    in_split = first.all_predictions.frame["split"].eq(wanted).to_numpy()
    if wanted == "all":
        in_split = np.ones(len(in_split), dtype=bool)
    if not in_split.any():
        there = first.all_predictions.frame["split"].value_counts()
        raise InputError(
            str(runs[0]),
            f"no image of split {wanted!r} ({', '.join(f'{k} {n:,}' for k, n in there.items())})",
            expected="images to audit",
            todo=f"Score them: ddeval score CHECKPOINT --split {wanted}.",
        )
    ids = first.all_predictions.frame["image_id"][in_split]
    rows = first.manifest.loc[ids]
    codes, is_labelled = label_codes(rows, names, where=str(first.manifest_path))
    if not is_labelled.any():
        raise InputError(
            str(first.manifest_path),
            f"no label for any of the {len(rows):,} images of split {wanted!r}",
            expected="labels to audit",
            todo="Fill the column `label`.",
        )
    rows, ids = with_cases(rows[is_labelled].reset_index(drop=True)), ids[is_labelled]
    members = {}
    for name, run, one in zip(run_names(runs), runs, read, strict=True):
        members[name] = _probs_of(one.all_predictions, ids, names, where=str(run))
    embedded, features = None, None
    if with_embeddings and (vectors := _embeddings(runs[0], len(first.all_predictions.frame))) is not None:
        embedded = first.all_predictions.frame["image_id"].to_numpy(dtype=object), vectors
        features = vectors[pd.Index(embedded[0]).get_indexer(pd.Index(ids))]
    n_unlabelled = int((~is_labelled).sum())
    return Subject(
        split=wanted,
        version=first.version,
        manifest_path=first.manifest_path,
        rows=rows,
        labels=codes[is_labelled],
        members=members,
        class_names=names,
        features=features,
        manifest=first.manifest.reset_index(drop=True),
        embedded=embedded,
        is_synthetic=all(bool(one.facts.get("is_synthetic")) for one in read),
        n_unlabelled=n_unlabelled,
        notes=(f"images without a label, not audited: {n_unlabelled:,}",) if n_unlabelled else (),
    )


def _one_split(splits: "pd.Series", judged: Sequence[str], *, where: str) -> str:
    """The split a run was judged on; `all` where the manifest has none."""
    if judged:
        return judged[0]
    there = sorted(splits.dropna().unique())
    if len(there) > 1:
        raise InputError(
            where,
            f"images of the splits {', '.join(there)}",
            expected="one split: test is vetted for an estimate, train for gain",
            todo="Say which with --split.",
        )
    return there[0] if there else "all"


def _probs_of(
    predictions: Any, ids: "pd.Series", class_names: tuple[str, ...], *, where: str
) -> "npt.NDArray[np.float64]":
    """Probabilities of these images under another run, its classes in the order of the first."""
    import numpy as np
    import pandas as pd

    odd = sorted(set(class_names) ^ set(predictions.class_names))
    if odd:
        raise InputError(
            where,
            f"other classes than the first run: {', '.join(odd[:5])}",
            expected="one class list",
            todo="Audit runs of one class list together.",
        )
    rows = pd.Index(predictions.frame["image_id"]).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        raise InputError(
            where,
            f"no prediction for image {ids.to_numpy()[rows < 0][0]!r} ({int((rows < 0).sum()):,} such)",
            expected="the same images in every run",
            todo="Score them all on one manifest.",
        )
    columns = pd.Index(predictions.class_names).get_indexer(pd.Index(class_names))
    probs = predictions.pred_probs()
    if np.array_equal(rows, np.arange(len(probs))) and np.array_equal(columns, np.arange(probs.shape[1])):
        return probs  # type: ignore[no-any-return]  # a million rows are not copied twice
    return probs[rows][:, columns]  # type: ignore[no-any-return]


def _embeddings(run: Path, n_rows: int) -> "npt.NDArray[np.float32] | None":
    """Embeddings of a run, a row a prediction; None where it has none, as a predictions file."""
    import numpy as np

    from ddeval.score.folder import EMBEDDINGS_FILE
    from ddeval.score.predictions import read_embeddings

    return np.array(read_embeddings(run, n_rows)) if (run / EMBEDDINGS_FILE).is_file() else None


def _out_of_fold(
    runs: Sequence[Path], subject: Subject, *, n_folds: int, rng: "np.random.Generator"
) -> "dict[str, npt.NDArray[np.float64]]":
    """Each run's probabilities from heads on its embeddings, fitted without the image and its group."""
    import pandas as pd

    from ddeval.audit.folds import head_fitter, out_of_fold
    from ddeval.score.predictions import read_predictions

    members = {}
    ids = pd.Index(subject.rows["image_id"])
    for name, run in zip(subject.members, runs, strict=True):
        frame = read_predictions(run / "predictions.parquet").frame
        vectors = _embeddings(run, len(frame))
        if vectors is None:
            raise InputError(
                str(run),
                "no embeddings.npy, as a run of a predictions file has none",
                expected="embeddings to fit a head of every fold to",
                todo="Score the checkpoint itself, or pass --as-given if the file is out of fold already.",
            )
        held = vectors[pd.Index(frame["image_id"]).get_indexer(ids)]
        fit = head_fitter(held, subject.labels, n_classes=len(subject.class_names))
        try:
            members[name] = out_of_fold(
                fit,
                subject.labels,
                n_folds=n_folds,
                groups=subject.rows["group"].to_numpy(),
                n_classes=len(subject.class_names),
                rng=rng,
            )
        except ValueError as error:
            raise InputError(
                f"--folds {n_folds}", str(error), expected="folds that fit the data", todo="Take fewer folds."
            ) from None
    return members


def _judged(
    subject: Subject,
    members: "dict[str, npt.NDArray[np.float64]]",
    *,
    n_folds: int,
    note: Callable[[str], None],
) -> Subject:
    """The images that heads could judge under those heads; the others are counted and leave the audit."""
    import numpy as np

    is_judged = np.logical_and.reduce([np.isfinite(probs).all(axis=1) for probs in members.values()])
    if not is_judged.any():
        raise InputError(
            f"--folds {n_folds}",
            f"no head for any of the {len(is_judged):,} images: one class alone, or no finite embeddings",
            expected="two classes at least in the other folds, and an embedding of every image",
            todo="Pass --as-given if the checkpoint never saw these labels; else score the run again.",
        )
    if is_judged.all():
        return subject._replace(members=members)
    note(f"images no head could judge (no finite embedding), not audited: {int((~is_judged).sum()):,}")
    return subject._replace(
        rows=subject.rows[is_judged].reset_index(drop=True),
        labels=subject.labels[is_judged],
        members={name: probs[is_judged] for name, probs in members.items()},
        features=None if subject.features is None else subject.features[is_judged],
    )


def _duplicates(
    subject: Subject,
    with_pictures: bool,
    similarity: float,
    *,
    image_roots: Sequence[Path],
    progress: Progress,
    note: Callable[[str], None],
) -> "tuple[pd.DataFrame, int]":
    """The duplicate table over every image at hand, and how many files could not be read."""
    from ddeval.audit.duplicates import duplicate_table, near_duplicates, with_ids
    from ddeval.audit.pictures import fingerprints, same_pictures
    from ddeval.data.manifest import image_files

    pairs, n_unread = [], 0
    manifest = subject.manifest
    if with_pictures and "image" in manifest and manifest["image"].notna().any():
        roots = list(image_roots) or [subject.manifest_path.parent]
        files = image_files(manifest, roots, where=str(subject.manifest_path))
        with progress("comparing pictures", len(files)) as tick:
            prints = fingerprints(files, tick=tick)
        n_unread = sum(p is None and f is not None for p, f in zip(prints, files, strict=True))
        if n_unread:
            note(f"pictures that could not be read, compared with nothing: {n_unread:,}")
        pairs.append(with_ids(same_pictures(prints), manifest["image_id"].to_numpy(dtype=object)))
    if subject.embedded is not None:
        ids, vectors = subject.embedded
        try:
            near = near_duplicates(vectors, threshold=similarity)
        except ValueError as error:
            note(f"embeddings are in no pair: {error}")
        else:
            pairs.append(with_ids(near.assign(kind="embedding"), ids))
    return duplicate_table(pairs, manifest), n_unread


def _with_thumbnails(
    folder: Path,
    subject: Subject,
    found: "Findings",
    duplicates: "pd.DataFrame",
    *,
    image_roots: Sequence[Path],
) -> "tuple[Findings, pd.DataFrame]":
    """A `thumbnail` of what the page shows: issues, odd photographs, pairs (`thumbnail_a`, `thumbnail_b`)."""
    from ddeval.report.audit_page import N_CARDS
    from ddeval.score.evaluate import with_thumbnails

    roots = list(image_roots) or [subject.manifest_path.parent]
    manifest = subject.manifest.set_index("image_id")

    def names(table: "pd.DataFrame", column: str = "image_id") -> "pd.Series":
        rows = table[[column]].head(N_CARDS).rename(columns={column: "image_id"})
        return with_thumbnails(folder, rows, manifest, roots)[0]["thumbnail"].reindex(table.index)

    pairs = {f"thumbnail_{side}": names(duplicates, f"image_id_{side}") for side in "ab"}
    shown = found._replace(
        issues=found.issues.assign(thumbnail=names(found.issues)),
        off_topic=found.off_topic.assign(thumbnail=names(found.off_topic)),
    )
    return shown, duplicates.assign(**pairs)


def draw(
    audit: Path,
    *,
    date: str,
    photos: bool = False,
    out: Path | None = None,
    readers: "pd.DataFrame | None" = None,
) -> Path:
    """Draw the page of an audit folder, with the agreement of a closed batch where there is one."""
    from ddeval import io
    from ddeval.report.audit_page import READERS_FILE, write_audit_report

    if readers is not None:
        io.write_parquet(audit / READERS_FILE, readers)
    page = out or audit / PAGE_FILE
    write_audit_report(audit, page, date=date, photos=photos)
    return page


def agreement(store: str, batch: str, *, class_of: Mapping[str, str]) -> "pd.DataFrame":
    """Agreement of each reader of a closed batch with the others, and of the model (`Standing.agreement`)."""
    import numpy as np

    from ddeval.vet.batches import read_batch
    from ddeval.vet.standing import standing
    from ddeval.vet.store import Store

    opened = Store(store)
    held = read_batch(opened, batch)
    if held.is_open:
        raise InputError(
            f"batch {batch}",
            "it is still open: readers could learn from the page what others said",
            expected="a closed batch",
            todo=f"Close it first: ddeval vet close {batch}.",
        )
    return standing(opened, held, class_of=class_of, rng=np.random.default_rng(0)).agreement


def _summary(
    runs: Sequence[Path], subject: Subject, found: "Findings", duplicates: "pd.DataFrame"
) -> dict[str, Any]:
    items = found.queue.items
    pairs = {name: int(duplicates[f"is_{name}"].sum()) for name in ("leak", "contradictory", "across_groups")}
    return {
        "runs": [run.name for run in runs],
        "checkpoints": list(subject.members),
        "split": subject.split,
        "labels": subject.version,
        "is_synthetic": subject.is_synthetic,
        "n_images": len(subject.rows),
        "n_cases": len(found.cases),
        "n_unlabelled": subject.n_unlabelled,
        "class_names": list(subject.class_names),
        "temperature": found.temperature,
        "n_disagreeing": int((found.issues["given_label"] != found.issues["predicted_label"]).sum()),
        "errors_expected": float((found.cases["label_error"] * found.cases["n_images"]).sum()),
        "n_flagged": found.n_flagged,
        "duplicates": {"n_pairs": len(duplicates), **{f"n_{name}": n for name, n in pairs.items()}},
        "n_off_topic": len(found.off_topic),
        "queue": {str(kind): int(n) for kind, n in items["kind"].value_counts().items()},
    }


def _write(folder: Path, summary: Mapping[str, Any], found: "Findings", duplicates: "pd.DataFrame") -> None:
    from ddeval import io, tables

    tables.check(found.issues, tables.ISSUES, where="issues")
    tables.check(found.queue.items, tables.QUEUE, where="queue")
    for name in ("issues", "off_topic", "health", "overlap"):
        io.write_parquet(folder / f"{name}.parquet", getattr(found, name))
    io.write_parquet(folder / "duplicates.parquet", duplicates)
    cases = found.cases.merge(
        found.queue.frame[["case_id", "stratum", "inclusion_probability"]], on="case_id", validate="1:1"
    )
    about = {k: summary[k] for k in ("runs", "checkpoints", "split", "labels", "seed", "mix", "earlier")}
    io.write_parquet(folder / "cases.parquet", cases, metadata=about)
    items = found.queue.items
    io.write_parquet(folder / "queue.parquet", items, metadata={**about, "proposers": summary["checkpoints"]})
    io.write_json(folder / "audit.json", summary)


def planned(
    audit: Path,
    *,
    readers: int,
    cases: int,
    reads: int,
    disagreement: float,
    minutes: float,
    mix: tuple[float, float, float] | None,
    seed: int,
) -> dict[str, Any]:
    """What an evening buys on the cases of an audit (`ddeval.audit.plan.evening`)."""
    import numpy as np

    from ddeval.audit.plan import evening
    from ddeval.audit.queue import Mix

    table, about = read_cases(audit)
    try:
        return evening(
            table,
            readers=readers,
            cases=cases,
            reads=reads,
            disagreement=disagreement,
            minutes=minutes,
            mix=Mix(*(mix or about["mix"].values())),
            rng=np.random.default_rng(seed),
        )
    except ValueError as error:
        raise InputError(
            "ddeval audit plan",
            str(error),
            expected="an evening that can be held",
            todo="Change the numbers.",
        ) from None


def read_cases(audit: Path) -> "tuple[pd.DataFrame, dict[str, Any]]":
    """cases.parquet of an audit folder and its metadata."""
    from ddeval import io

    path = audit / "cases.parquet"
    if not path.is_file():
        raise InputError(
            str(audit),
            "no cases.parquet",
            expected="an audit folder",
            todo="Make one with: ddeval audit RUN.",
        )
    return io.read_parquet(path)


def measured(
    run: Path,
    *,
    labels: str | None = None,
    audits: Sequence[Path] | None = None,
    data: Path | None = None,
    overlays: Path = Path("labels"),
    confidence_level: float = 0.95,
    is_kept: bool = True,
) -> dict[str, Any]:
    """`ddeval truth --json`: accuracy against the vetted reference, errors left, precision and stop rule.

    `audits` are the folders whose queues were read, `RUN/audit` where None. The result is kept in
    `RUN/labels-<version>/truth.json` unless told otherwise.
    """
    from ddeval import io
    from ddeval.audit.progress import errors_left, precision_at_k, stop_rule
    from ddeval.score.verdicts import Batch
    from ddeval.score.vetted import vetted_accuracy

    batches = []
    for folder in audits or [run / "audit"]:
        cases, about = read_cases(folder)
        cases.attrs["split"] = about["split"]
        batches.append(Batch(cases, io.read_parquet(folder / "queue.parquet")[0], str(folder)))
    found = vetted_accuracy(
        run, batches, labels, manifest=data, overlays=overlays, confidence_level=confidence_level
    )
    wrong = found.table["state"].map({"keep": 0.0, "compatible": 0.0, "relabel": 1.0})
    ranked = found.table[["label_quality"]].assign(is_wrong=wrong).iloc[found.sample.index]
    is_ranked = found.strata[found.sample.index] == "ranked"
    in_order = ranked[is_ranked].sort_values("label_quality", kind="stable")["is_wrong"].to_numpy()
    left = errors_left(
        wrong.to_numpy(dtype="float64"), found.strata, found.sample, confidence_level=confidence_level
    )
    version = found.result["labels"]
    result = found.result | {
        "errors_left": {
            "share": left.total.value,
            "ci_low": left.total.ci_low,
            "ci_high": left.total.ci_high,
            "n_found": left.n_found,
            "left": left.left,
            "left_low": left.left_low,
            "left_high": left.left_high,
        },
        "precision_at_k": precision_at_k(in_order).to_dict("records"),
        "stop": stop_rule(in_order)._asdict(),
        "made_from": {
            "audits": [str(Path(batch.where).resolve()) for batch in batches],
            "overlays": str(overlays.resolve()),
            "labels": str(Path(labels).resolve()) if labels and Path(labels).is_file() else version,
        },
    }
    if is_kept:
        io.write_json(run / f"labels-{result['labels']}" / TRUTH_FILE, result)
    return result
