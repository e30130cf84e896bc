"""Simulated readers: they work through a batch of the drawn data set blind, as people do in the app.

A reader is handed what the app sends to a browser (`Desk.screen`, `Desk.hearing`, photographs) and nothing
else, and answers through the store. It knows a drawn disease when it sees it, as often as its error rate
says: `eyes` tells what a photograph shows from its pixels alone.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ddeval.data.demo import read_truth
from ddeval.data.demo.diseases import read_tables
from ddeval.vet import reading
from ddeval.vet.adjudication import next_hearing, record_adjudication
from ddeval.vet.batches import Batch
from ddeval.vet.consensus import Answer

if TYPE_CHECKING:
    from apps.vet.desk import Desk

SECOND_THOUGHT = 0.3
"""Chance that a reader names a second diagnosis after the first."""

Sight = Literal["skin", "off_topic", "ungradable"]


class Shown(NamedTuple):
    """What a drawn photograph shows to whoever looks at it."""

    disease: str
    sight: Sight


@dataclass
class Reader:
    """One simulated reader."""

    code: str
    error_rate: float
    """Chance that the first diagnosis is of another class than the disease that was drawn."""
    cannot_tell: float = 0.02
    seed: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    """How often each first photograph was seen: a hidden repeat is judged afresh."""

    def read(
        self, screen: Mapping[str, Any], photographs: Sequence[bytes], eyes: Mapping[str, Shown]
    ) -> tuple[Answer, dict[str, Any]]:
        """The answer to what the page shows, and its details; the same page, first seen, gives the same.

        Parameters
        ----------
        screen : mapping
            What the app sends; `n_photographs` is all a simulated reader uses of it.
        photographs : list of JPEG bytes
        eyes : mapping
            From `make_eyes`.
        """
        digests = [_digest(content) for content in photographs]
        rng = np.random.default_rng(
            [self.seed, self.seen[digests[0]], *self.code.encode(), int(digests[0][:12], 16)]
        )
        self.seen[digests[0]] += 1
        shown = [eyes[digest] for digest in digests]
        poor = [number for number, one in enumerate(shown) if one.sight != "skin"]
        if len(poor) == screen["n_photographs"]:
            is_skin = any(one.sight == "ungradable" for one in shown)
            return Answer(exit="poor_image" if is_skin else "off_topic"), {"gradable": "no"}
        if rng.random() < self.cannot_tell:
            return Answer(exit="cannot_tell"), {"gradable": "partly"}
        disease = next(one.disease for one in shown if one.sight == "skin")
        first = _mistaken(disease, rng) if rng.random() < self.error_rate else disease
        named = [first]
        if rng.random() < SECOND_THOUGHT:
            named.append(disease if first != disease else _mistaken(disease, rng))
        return Answer(tuple(named)), {"gradable": "yes", "poor_photographs": poor}


def panel(n_readers: int, *, error_rate: float, seed: int) -> tuple[list[Reader], list[Reader]]:
    """Readers of one error rate, and two adjudicators who are wrong half as often."""
    readers = [Reader(f"reader-{i + 1:02d}", error_rate, seed=seed) for i in range(n_readers)]
    settle = [Reader(f"adjudicator-{i + 1}", error_rate / 2, 0.0, seed=seed) for i in range(2)]
    return readers, settle


def make_eyes(desk: "Desk", manifest: Path, cases: Sequence[str]) -> dict[str, Shown]:
    """Digest of every photograph of `cases`, as the app sends it, to what was drawn on it."""
    truth = read_truth(manifest).set_index("image_id")
    eyes = {}
    for case_id in dict.fromkeys(cases):
        for number, image_id in enumerate(desk.photographs[case_id]):
            row = truth.loc[image_id]
            sight: Sight = (
                "off_topic" if row["is_off_topic"] else "ungradable" if row["is_ungradable"] else "skin"
            )
            content = desk.photograph(case_id, number, is_full=False)
            eyes[_digest(content)] = Shown(str(row["true_diagnosis"]), sight)
    return eyes


def read_blind(
    desk: "Desk",
    batch: Batch,
    readers: Sequence[Reader],
    adjudicators: Sequence[Reader],
    eyes: Mapping[str, Shown],
) -> None:
    """Everybody reads until nothing is left for them; then what they differ on is settled.

    All readers look at once and answer after the shortest time the store believes.
    """
    while True:
        before = [(r, one) for r in readers if (one := reading.next_case(desk.store, batch, r.code))]
        if not before:
            break
        time.sleep(reading.DWELL_SECONDS)
        for reader, one in before:
            answer, details = _read(reader, _page(desk, batch, reader.code, one), desk, one.nonce, eyes)
            reading.record_reading(desk.store, batch, reader.code, one.nonce, answer, details=details)
    for adjudicator in adjudicators:
        while heard := next_hearing(desk.store, batch, adjudicator.code, class_of=desk.class_of):
            answer, details = _read(adjudicator, desk.hearing(heard, batch), desk, heard.nonce, eyes)
            record_adjudication(desk.store, batch, adjudicator.code, heard.nonce, answer, details=details)


def _page(desk: "Desk", batch: Batch, code: str, shown: reading.Screen) -> dict[str, Any]:
    from ddeval.vet.accounts import Account

    return desk.screen(shown, Account(code, "reader", True, None), batch)


def _read(
    reader: Reader, screen: Mapping[str, Any], desk: "Desk", nonce: str, eyes: Mapping[str, Shown]
) -> tuple[Answer, dict[str, Any]]:
    """What the reader answers to the page; photographs come by the nonce it was shown under."""
    case_id = str(reading.case_on_screen(desk.store, nonce, reader.code))
    photographs = [desk.photograph(case_id, i, is_full=False) for i in range(screen["n_photographs"])]
    return reader.read(screen, photographs, eyes)


def _mistaken(disease: str, rng: np.random.Generator) -> str:
    """A disease of another class that this one is mistaken for; any other where nothing is."""
    diseases = read_tables().diseases
    own = diseases[disease].class_name
    odds = {name: w for name, w in diseases[disease].confused.items() if diseases[name].class_name != own}
    odds = odds or {name: d.share for name, d in diseases.items() if d.class_name != own}
    weights = np.array(list(odds.values()), dtype=float)
    return str(rng.choice(list(odds), p=weights / weights.sum()))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def true_verdicts(manifest: Path) -> pd.Series:
    """Class of each case as readers without error give it, by case_id; None where they cannot."""
    truth = read_truth(manifest)
    truth["verdict"] = truth["true_label"].where(~(truth["is_off_topic"] | truth["is_ungradable"]))
    verdicts: pd.Series = truth.groupby("case_id", sort=False)["verdict"].first()
    return verdicts
