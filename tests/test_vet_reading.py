"""The reading protocol: which case comes next, and that an answer is stored once, for the case seen."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from ddeval.errors import InputError
from ddeval.vet import reading, schema
from ddeval.vet.adjudication import next_hearing, record_adjudication
from ddeval.vet.batches import close_batch, open_batch, practice_cases, read_batches
from ddeval.vet.consensus import Answer, put_first
from ddeval.vet.outcomes import batch_status, case_outcomes, ratings
from ddeval.vet.reading import (
    Refused,
    answers,
    next_case,
    progress,
    record_reading,
    release,
    reports,
    save_draft,
    set_aside,
    take_out,
    undo,
)
from ddeval.vet.reveal import reveal
from ddeval.vet.store import Store

CLASS_OF = {"eczema": "eczema", "psoriasis": "psoriasis", "tinea": "tinea", "lipoma": "other"}
ECZEMA, PSORIASIS = Answer(("eczema",)), Answer(("psoriasis",))


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "vet.db")
    yield store
    store.close()


@pytest.fixture(autouse=True)
def _no_dwell(monkeypatch):
    """Tests press at once; the one about the dwell sets it back."""
    monkeypatch.setattr(reading, "DWELL_SECONDS", 0.0)


def queue(n_cases, *, repeats=()):
    cases = pd.DataFrame({"case_id": [f"c{i}" for i in range(n_cases)], "kind": "random"})
    again = pd.DataFrame({"case_id": list(repeats), "kind": "repeat"})
    frame = pd.concat([cases, again], ignore_index=True)
    return frame.assign(
        stratum="all", inclusion_probability=0.5, given_label="eczema", label_basis="single", reason="why"
    )


def batch_of(store, n_cases, **options):
    frame = queue(n_cases, repeats=options.pop("repeats", ()))
    return open_batch(
        store, frame, **{"name": "b", "split": "test", "seed": 1, "manifest_sha256": "m", **options}
    )


def read_all(store, batch, reader, answer=ECZEMA):
    """Case ids in the order this reader met them."""
    seen = []
    while (screen := next_case(store, batch, reader)) is not None:
        record_reading(store, batch, reader, screen.nonce, answer)
        seen.append(screen.case_id)
    return seen


def test_every_reader_meets_every_case_once_in_an_order_of_their_own(store):
    batch = batch_of(store, 30)
    orders = [read_all(store, batch, reader) for reader in ("ann", "bob")]
    assert [sorted(order) for order in orders] == [sorted(f"c{i}" for i in range(30))] * 2
    assert orders[0] != orders[1]


def test_a_third_reader_gets_nothing_when_two_readings_are_enough(store):
    batch = batch_of(store, 5)
    read_all(store, batch, "ann")
    read_all(store, batch, "bob")
    assert next_case(store, batch, "cleo") is None
    assert progress(store, batch, "cleo").n_left == 0


def test_a_case_on_two_screens_is_not_handed_to_a_third_reader(store):
    batch = batch_of(store, 1)
    assert next_case(store, batch, "ann").case_id == next_case(store, batch, "bob").case_id == "c0"
    assert next_case(store, batch, "cleo") is None


def test_a_screen_left_for_two_hours_no_longer_keeps_a_case(store):
    batch = batch_of(store, 1)
    next_case(store, batch, "ann")
    next_case(store, batch, "bob")
    old = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
    with store.write() as connection:
        connection.execute(sa.update(schema.screens).values(shown_utc=old))
    assert next_case(store, batch, "cleo").case_id == "c0"


def test_coming_back_shows_the_same_case_with_its_draft(store):
    batch = batch_of(store, 10)
    screen = next_case(store, batch, "ann")
    assert save_draft(store, screen.nonce, "ann", {"diagnoses": ["tin"]})
    again = next_case(store, batch, "ann")
    assert (again.case_id, again.nonce, again.draft) == (screen.case_id, screen.nonce, {"diagnoses": ["tin"]})


def test_another_reader_cannot_write_into_a_screen(store):
    batch = batch_of(store, 10)
    screen = next_case(store, batch, "ann")
    assert not save_draft(store, screen.nonce, "bob", {"diagnoses": ["x"]})
    with pytest.raises(Refused) as refusal:
        record_reading(store, batch, "bob", screen.nonce, ECZEMA)
    assert refusal.value.code == "not_shown"
    assert store.events().empty


def test_the_same_answer_sent_twice_is_stored_once(store):
    """A lost acknowledgement is retried with the same nonce; the reader gets the first event again."""
    batch = batch_of(store, 3)
    nonce = next_case(store, batch, "ann").nonce
    first = record_reading(store, batch, "ann", nonce, ECZEMA)
    assert record_reading(store, batch, "ann", nonce, ECZEMA)["seq"] == first["seq"]
    with pytest.raises(Refused, match="the first answer stands"):
        record_reading(store, batch, "ann", nonce, PSORIASIS)
    assert len(store.events()) == 1


def test_a_press_before_the_case_could_be_seen_is_refused(store, monkeypatch):
    monkeypatch.setattr(reading, "DWELL_SECONDS", 60.0)
    batch = batch_of(store, 3)
    with pytest.raises(Refused) as refusal:
        record_reading(store, batch, "ann", next_case(store, batch, "ann").nonce, ECZEMA)
    assert refusal.value.code == "too_soon"
    assert store.events().empty


def test_hidden_repeats_come_at_least_forty_cases_later_and_once(store):
    batch = batch_of(store, 120, repeats=[f"c{i}" for i in range(20)], readings_per_case=1)
    order = read_all(store, batch, "ann")
    seen_at, gaps = {}, []
    for case in order:
        if case in seen_at:
            gaps.append(len(seen_at) - 1 - seen_at[case])  # cases read between
        else:
            seen_at[case] = len(seen_at)
    assert len(gaps) > 8
    assert min(gaps) >= reading.REPEAT_GAP
    assert len(order) == 120 + len(gaps)
    table, repeats = ratings(store, batch, name_of=lambda answer: put_first(answer, CLASS_OF))
    assert len(repeats) == len(gaps)
    assert table.shape == (120, 1)


def test_too_few_cases_for_the_gap_means_no_repeat_rather_than_an_early_one(store):
    batch = batch_of(store, 30, repeats=["c0", "c1"])
    assert len(read_all(store, batch, "ann")) == 30


def test_practice_cases_come_first_and_never_count(store):
    batch = batch_of(store, 4, settings={"practice_cases": ["p1", "p2"]})
    assert read_all(store, batch, "ann")[:2] == ["p1", "p2"]
    assert set(answers(store, "b")["case_id"]) == {"c0", "c1", "c2", "c3"}
    assert progress(store, batch, "ann").n_done == 4


def test_practice_cases_are_drawn_from_training_and_never_from_the_queue():
    manifest = pd.DataFrame(
        {
            "case_id": [f"c{i // 2}" for i in range(40)],
            "split": ["train" if i < 16 else "test" for i in range(40)],
        }
    )
    queue = pd.DataFrame({"case_id": ["c0", "c1", "c10"]})
    drawn = [practice_cases(manifest, queue, n=5, rng=np.random.default_rng(s)) for s in range(20)]
    assert all(len(set(cases)) == 5 for cases in drawn)
    assert {case for cases in drawn for case in cases} == {"c2", "c3", "c4", "c5", "c6", "c7"}
    more = practice_cases(manifest, queue, n=99, rng=np.random.default_rng(0))
    assert len(more) == len(set(more)) == 17
    assert not {"c0", "c1", "c10"} & set(more)


def test_a_skipped_case_comes_last_and_a_reported_one_comes_to_nobody(store):
    batch = batch_of(store, 5)
    skipped, reported = (next_case(store, batch, "ann") for _ in range(2))
    assert skipped == reported  # the same screen until it is answered
    set_aside(store, batch, "ann", skipped.nonce, "skip", reason="")
    reported = next_case(store, batch, "ann")
    set_aside(store, batch, "ann", reported.nonce, "report", reason="a name is on the photo")
    order = read_all(store, batch, "ann")
    assert order[-1] == skipped.case_id
    assert reported.case_id not in order + read_all(store, batch, "bob")


def test_a_practice_case_that_cannot_be_read_does_not_stop_a_reader(store):
    """Its photograph may never come: skipping or reporting it passes it."""
    batch = batch_of(store, 3, settings={"practice_cases": ["p1", "p2", "p3"]})
    for kind in ("skip", "report"):
        screen = next_case(store, batch, "ann")
        assert screen.is_practice
        set_aside(store, batch, "ann", screen.nonce, kind, reason="no photograph")
    assert read_all(store, batch, "ann")[0] == "p3"
    assert read_all(store, batch, "bob")[:2] == ["p1", "p3"]  # nobody is shown what ann reported


def test_a_reported_case_leaves_every_screen_and_is_not_settled(store):
    batch = batch_of(store, 1)
    for reader, answer in (("ann", ECZEMA), ("bob", PSORIASIS)):
        record_reading(store, batch, reader, next_case(store, batch, reader).nonce, answer)
    hearing = next_hearing(store, batch, "cleo", class_of=CLASS_OF)
    nonce = undo(store, batch, "ann", reason="a slip").nonce
    record_reading(store, batch, "ann", nonce, ECZEMA)
    assert take_out(store, ["c0", "unknown"], actor="admin", reason="patient withdrew") == {"b": 1}
    assert take_out(store, ["c0"], actor="admin", reason="patient withdrew") == {}
    assert reading.case_on_screen(store, hearing.nonce, "cleo") is None
    assert next_hearing(store, batch, "cleo", class_of=CLASS_OF) is None
    assert batch_status(store, batch, class_of=CLASS_OF)["n_to_adjudicate"] == 0
    with pytest.raises(Refused, match="taken out since"):
        undo(store, batch, "bob", reason="a slip")


def test_a_report_takes_the_case_off_a_colleagues_screen_and_its_hidden_repeat_away(store):
    batch = batch_of(store, 60, repeats=["c0"], readings_per_case=2)
    first, second = next_case(store, batch, "ann"), next_case(store, batch, "bob")
    while second.case_id != first.case_id:
        record_reading(store, batch, "bob", second.nonce, ECZEMA)
        second = next_case(store, batch, "bob")
    set_aside(store, batch, "ann", first.nonce, "report", reason="a name is visible")
    assert reading.case_on_screen(store, second.nonce, "bob") is None
    take_out(store, ["c0"], actor="admin", reason="patient withdrew")
    assert "c0" not in read_all(store, batch, "ann")
    assert next_case(store, batch, "ann") is None


def test_a_case_without_a_photograph_at_hand_does_not_stop_an_adjudicator(store):
    batch = batch_of(store, 2)
    for reader, answer in (("ann", ECZEMA), ("bob", PSORIASIS)):
        read_all(store, batch, reader, answer)
    hearing = next_hearing(store, batch, "cleo", class_of=CLASS_OF, at_hand={"c1": []})
    assert (hearing.case_id, hearing.n_left) == ("c1", 1)


def test_a_diagnosis_that_the_conditions_have_lost_is_named(store):
    batch = batch_of(store, 1)
    read_all(store, batch, "ann", PSORIASIS)
    with pytest.raises(InputError, match=r"diagnosis 'psoriasis', which the conditions file lacks"):
        case_outcomes(store, batch, class_of={"eczema": "eczema"})


def test_an_admin_sees_what_was_reported_until_it_is_released(store):
    batch = batch_of(store, 3)
    shown = next_case(store, batch, "ann")
    set_aside(store, batch, "ann", shown.nonce, "report", reason="a name is visible")
    assert reports(store, "b")[["case_id", "reader", "reason"]].to_numpy().tolist() == [
        [shown.case_id, "ann", "a name is visible"]
    ]
    release(store, "b", shown.case_id, actor="root", reason="no name there")
    assert len(reports(store, "b")) == 0


def test_undo_is_a_new_event_and_brings_the_answer_back_as_a_draft(store):
    batch = batch_of(store, 5)
    screen = next_case(store, batch, "ann")
    record_reading(store, batch, "ann", screen.nonce, PSORIASIS)
    back = undo(store, batch, "ann", reason="slip")
    assert (back.case_id, back.draft["diagnoses"]) == (screen.case_id, ["psoriasis"])
    assert answers(store, "b").empty
    record_reading(store, batch, "ann", back.nonce, ECZEMA)
    assert [a.diagnoses for a in answers(store, "b")["answer"]] == [("eczema",)]
    assert store.events()["kind"].tolist() == ["reading", "undo", "reading"]


def test_after_a_reveal_the_blind_answer_stays_and_the_new_one_is_unblinded(store):
    batch = batch_of(store, 5)
    screen = next_case(store, batch, "ann")
    record_reading(store, batch, "ann", screen.nonce, PSORIASIS)
    with store.write() as connection:
        store.append(
            connection,
            actor="ann",
            role="reader",
            batch="b",
            case_id=screen.case_id,
            reading_no=1,
            revision=0,
            kind="reveal",
            blind_level="unblinded",
            nonce="reveal",
        )
    back = undo(store, batch, "ann", reason="saw the label")
    record_reading(store, batch, "ann", back.nonce, ECZEMA)
    assert [a.diagnoses for a in answers(store, "b")["answer"]] == [("psoriasis",)]
    both = answers(store, "b", blind_only=False)
    assert both["blind_level"].tolist() == ["blind", "unblinded"]


def test_nothing_to_undo_is_said(store):
    with pytest.raises(Refused) as refusal:
        undo(store, batch_of(store, 2), "ann", reason="")
    assert refusal.value.code == "nothing_to_undo"


def test_a_closed_batch_takes_nothing_more_and_closing_twice_is_one_event(store):
    batch = batch_of(store, 5)
    screen = next_case(store, batch, "ann")
    close_batch(store, "b", actor="admin")
    closed = close_batch(store, "b", actor="admin")
    assert not closed.is_open
    assert next_case(store, closed, "ann") is None
    with pytest.raises(Refused):
        record_reading(store, batch, "ann", screen.nonce, ECZEMA)
    assert store.events()["kind"].tolist() == ["close"]


def test_a_note_that_is_too_long_is_refused_not_cut(store):
    batch = batch_of(store, 2)
    screen = next_case(store, batch, "ann")
    with pytest.raises(Refused, match="4001 characters"):
        record_reading(store, batch, "ann", screen.nonce, ECZEMA, details={"note": "x" * 4001})


def test_opening_the_same_queue_again_changes_nothing_and_another_one_is_refused(store):
    batch_of(store, 5)
    batch_of(store, 5)
    assert len(read_batches(store)) == 1
    with pytest.raises(InputError, match="another queue opened under this name"):
        batch_of(store, 6)


def test_a_repeat_without_its_original_is_refused(store):
    with pytest.raises(InputError, match="hidden repeat of case 'zz'"):
        batch_of(store, 5, repeats=["zz"])


def test_readers_who_differ_are_settled_by_a_third_who_read_neither(store):
    batch = batch_of(store, 3)
    read_all(store, batch, "ann", ECZEMA)
    read_all(store, batch, "bob", PSORIASIS)
    assert next_hearing(store, batch, "ann", class_of=CLASS_OF) is None
    hearing = next_hearing(store, batch, "cleo", class_of=CLASS_OF)
    assert (hearing.n_left, [letter for letter, _, _ in hearing.readings]) == (3, ["A", "B"])
    record_adjudication(store, batch, "cleo", hearing.nonce, PSORIASIS)
    settled = {o.case_id: o for o in case_outcomes(store, batch, class_of=CLASS_OF)}[hearing.case_id]
    assert (settled.consensus.rule, settled.consensus.outcome) == ("adjudicated", "relabel")
    assert settled.readers[-1] == "cleo"
    assert next_hearing(store, batch, "cleo", class_of=CLASS_OF).n_left == 2


def test_whoever_has_heard_the_readings_of_a_case_is_not_handed_it_to_read(store):
    """A reader takes an answer back while an adjudicator has the case before them, and does not come back."""
    batch = batch_of(store, 1)
    read_all(store, batch, "ann", ECZEMA)
    read_all(store, batch, "bob", PSORIASIS)
    assert next_hearing(store, batch, "cleo", class_of=CLASS_OF) is not None
    undo(store, batch, "bob", reason="second thoughts")
    late = (datetime.now(UTC) - timedelta(hours=3)).isoformat(timespec="microseconds")
    with store.write() as connection:
        connection.execute(sa.update(schema.screens).values(shown_utc=late))
    assert next_case(store, batch, "cleo") is None
    assert next_case(store, batch, "dan") is not None


def test_letters_do_not_follow_the_readers(store):
    """Over many cases reader ann is A about as often as B, so a letter says nothing about who read."""
    batch = batch_of(store, 40)
    read_all(store, batch, "ann", ECZEMA)
    read_all(store, batch, "bob", PSORIASIS)
    firsts = []
    while (hearing := next_hearing(store, batch, "cleo", class_of=CLASS_OF)) is not None:
        firsts.append(hearing.readings[0][1].diagnoses[0])
        record_adjudication(store, batch, "cleo", hearing.nonce, ECZEMA)
    assert 10 <= firsts.count("eczema") <= 30


def test_of_two_adjudicators_at_once_one_is_taken_and_the_other_told(store):
    batch = batch_of(store, 1)
    read_all(store, batch, "ann", ECZEMA)
    read_all(store, batch, "bob", PSORIASIS)
    cleo, dan = (next_hearing(store, batch, who, class_of=CLASS_OF) for who in ("cleo", "dan"))
    record_adjudication(store, batch, "cleo", cleo.nonce, ECZEMA)
    with pytest.raises(Refused, match="Another adjudicator settled this case"):
        record_adjudication(store, batch, "dan", dan.nonce, PSORIASIS)
    assert (store.events()["kind"] == "adjudication").sum() == 1


def test_an_adjudicated_answer_is_not_undone_by_its_reader(store):
    batch = batch_of(store, 1)
    read_all(store, batch, "ann", ECZEMA)
    read_all(store, batch, "bob", PSORIASIS)
    hearing = next_hearing(store, batch, "cleo", class_of=CLASS_OF)
    record_adjudication(store, batch, "cleo", hearing.nonce, ECZEMA)
    with pytest.raises(Refused) as refusal:
        undo(store, batch, "ann", reason="")
    assert refusal.value.code == "settled"


def test_a_screen_holds_nothing_a_blind_reader_must_not_see(store):
    """Label, kind, stratum and reason stay in the store; a browser may be sent the whole screen."""
    screen = next_case(store, batch_of(store, 3), "ann")
    assert set(vars(screen)) == {"batch", "case_id", "nonce", "shown_utc", "is_practice", "draft"}


def test_the_place_in_the_batch_gives_no_hidden_repeat_away(store):
    """Done counts up by one a case and done + left stays, whether a case is new or a repeat."""
    batch = batch_of(store, 70, repeats=["c0", "c1", "c2", "c3", "c4"], readings_per_case=1)
    seen, places = [], []
    while (screen := next_case(store, batch, "ann")) is not None:
        done = progress(store, batch, "ann")
        places.append((done.n_done, done.n_done + done.n_left))
        seen.append(screen.case_id)
        record_reading(store, batch, "ann", screen.nonce, Answer(("eczema",)))
    n_read = len(seen)
    assert 1 <= n_read - len(set(seen)) <= 5  # a case met late leaves no room for its repeat
    assert [done for done, _ in places] == list(range(n_read))
    assert {total for _, total in places} <= {n_read, 75}


def test_a_revealed_case_is_read_unblinded_in_every_later_batch(store):
    """The reveal needs a closed batch that was opened for it; what follows is kept and counts for nothing."""
    frame = queue(3).assign(predicted_label="tinea")
    batch = open_batch(
        store, frame, name="r", split="test", seed=0, manifest_sha256="m", settings={"reveal": "after_close"}
    )
    for _ in range(3):
        record_reading(store, batch, "ann", next_case(store, batch, "ann").nonce, Answer(("eczema",)))
    with pytest.raises(Refused, match="not shown"):
        reveal(store, batch, "ann")
    closed = close_batch(store, "r", actor="root")
    for _ in range(2):
        assert reveal(store, closed, "ann")["predicted_label"].tolist() == ["tinea"] * 3
    assert (store.events("r")["kind"] == "reveal").sum() == 3
    later = open_batch(store, frame, name="later", split="test", seed=0, manifest_sha256="m")
    for reader in ("ann", "bob"):
        screen = next_case(store, later, reader)
        record_reading(store, later, reader, screen.nonce, Answer(("eczema",)))
    assert answers(store, "later")["actor"].tolist() == ["bob"]


def test_a_batch_assigned_to_readers_is_nobody_elses(store):
    batch = open_batch(
        store, queue(1), name="a", split="test", seed=0, manifest_sha256="m", settings={"readers": ["ann"]}
    )
    assert batch.is_assigned_to("ann")
    assert not batch.is_assigned_to("bob")
