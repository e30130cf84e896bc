"""Accounts: sessions that end, limits that lock one account only, and roles that are kept."""

import statistics
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from ddeval.errors import InputError
from ddeval.vet import accounts, schema
from ddeval.vet.accounts import (
    ALLOWED,
    Account,
    LogInRefused,
    account_by_email,
    account_of,
    forget_person,
    invite,
    log_in,
    log_out,
    open_session,
    reset_link,
    set_active,
    use_link,
)
from ddeval.vet.store import Store

PASSWORD = "seven quiet violins"


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "vet.db")
    use_link(store, invite(store, "r1", role="reader", name="Dr A", email="A@clinic.example"), PASSWORD)
    yield store
    store.close()


def refused(store, name, password, *, address="10.0.0.1"):
    with pytest.raises(LogInRefused) as refusal:
        log_in(store, name, password, address=address)
    return refusal.value


def age(store, table, column, by):
    with store.write() as connection:
        old = (datetime.now(UTC) - by).isoformat(timespec="microseconds")
        connection.execute(sa.update(table).values({column: old}))


def test_code_or_address_and_password_open_a_session(store):
    for name in ("r1", "R1", "a@clinic.example"):
        token = log_in(store, name, PASSWORD, address="10.0.0.1")
        assert account_of(store, token) == Account("r1", "reader", True, None)


def test_no_token_in_the_store_could_be_used_as_a_cookie(store):
    """Tokens are stored as hashes: whoever reads the database cannot log in with it."""
    token = log_in(store, "r1", PASSWORD, address="10.0.0.1")
    with store.read() as connection:
        stored = connection.execute(sa.select(schema.sessions.c.token_sha256)).scalars().all()
        hashes = connection.execute(sa.select(schema.users.c.password_hash)).scalars().all()
    assert token not in stored
    assert all(account_of(store, value) is None for value in stored)
    assert all(value.startswith("$argon2id$") for value in hashes)


@pytest.mark.parametrize("token", [None, "", "forged"])
def test_a_token_nobody_was_given_is_nobodys(store, token):
    assert account_of(store, token) is None


@pytest.mark.parametrize(
    "ending",
    [
        lambda store, token: log_out(store, token),
        lambda store, token: set_active(store, "r1", is_active=False),
        lambda store, token: use_link(store, reset_link(store, "r1"), "nine louder trombones"),
        lambda store, token: age(store, schema.sessions, "expires_utc", timedelta(seconds=1)),
        lambda store, token: age(store, schema.sessions, "seen_utc", timedelta(hours=13)),
        lambda store, token: forget_person(store, "r1"),
    ],
    ids=["log-out", "disabled", "password reset", "expired", "idle", "erased"],
)
def test_a_stolen_cookie_is_worth_nothing_after(store, ending):
    token = log_in(store, "r1", PASSWORD, address="10.0.0.1")
    ending(store, token)
    assert account_of(store, token) is None


def test_a_wrong_password_and_an_unknown_name_are_told_apart_by_nobody(store):
    assert str(refused(store, "r1", "wrong")) == str(refused(store, "nobody", "wrong"))


def test_an_unknown_name_takes_as_long_as_a_wrong_password(store, monkeypatch):
    """Medians of interleaved attempts within a third (10 % on a quiet machine): argon2 runs for both."""
    monkeypatch.setattr(accounts, "ACCOUNT_FAILURES", 1000)
    taken = {"r1": [], "nobody": []}
    for _ in range(9):
        for name, times in taken.items():
            start = time.process_time()
            refused(store, name, "wrong")
            times.append(time.process_time() - start)
    known, unknown = (statistics.median(times) for times in taken.values())
    assert unknown == pytest.approx(known, rel=0.33)


def test_ten_wrong_passwords_lock_one_account_for_a_while_and_no_other(store):
    use_link(store, invite(store, "r2", role="reader"), PASSWORD)
    for _ in range(accounts.ACCOUNT_FAILURES):
        assert not refused(store, "r1", "wrong").is_limited
    assert refused(store, "r1", PASSWORD).is_limited
    assert log_in(store, "r2", PASSWORD, address="10.0.0.1")
    age(store, schema.attempts, "ts_utc", timedelta(minutes=16))
    assert log_in(store, "r1", PASSWORD, address="10.0.0.1")


def test_one_guess_at_each_of_many_names_is_limited_by_address(store, monkeypatch):
    monkeypatch.setattr(accounts, "ADDRESS_FAILURES", 5)
    for i in range(5):
        refused(store, f"user{i}", "wrong", address="10.9.9.9")
    assert refused(store, "r1", PASSWORD, address="10.9.9.9").is_limited
    assert log_in(store, "r1", PASSWORD, address="10.0.0.1")


def test_a_link_works_once_and_only_in_time(store):
    token = invite(store, "r3", role="adjudicator")
    use_link(store, token, PASSWORD)
    with pytest.raises(LogInRefused):
        use_link(store, token, "another long password")
    late = reset_link(store, "r3")
    age(store, schema.links, "expires_utc", timedelta(seconds=1))
    with pytest.raises(LogInRefused):
        use_link(store, late, "another long password")


def test_a_new_reset_link_ends_the_one_before(store):
    first, second = reset_link(store, "r1"), reset_link(store, "r1")
    with pytest.raises(LogInRefused):
        use_link(store, first, "another long password")
    use_link(store, second, "another long password")
    assert log_in(store, "r1", "another long password", address="x")


@pytest.mark.parametrize(
    ("password", "message"),
    [
        ("short", "found 5 characters"),
        ("x" * 300, "found 300 characters"),
        ("Password2026!!", "one of the first guesses"),
        ("aaaaaaaaaaaaaa", "one of the first guesses"),
        ("my code is r1 ok", "the account's own code"),
    ],
)
def test_a_weak_password_is_refused_and_the_link_stays_good(store, password, message):
    token = reset_link(store, "r1")
    with pytest.raises(InputError, match=message):
        use_link(store, token, password)
    use_link(store, token, "another long password")


def test_an_erased_person_leaves_a_code_and_nothing_else(store):
    forget_person(store, "r1")
    with store.read() as connection:
        row = connection.execute(sa.select(schema.users)).mappings().one()
    assert (row["code"], row["name"], row["email"], row["password_hash"]) == ("r1", None, None, None)
    assert account_by_email(store, "a@clinic.example") is None


def test_an_identity_provider_opens_sessions_of_active_accounts_only(store):
    assert account_by_email(store, "A@Clinic.Example").code == "r1"
    assert account_of(store, open_session(store, "r1")).code == "r1"
    set_active(store, "r1", is_active=False)
    with pytest.raises(LogInRefused):
        open_session(store, "r1")


def test_an_address_belongs_to_one_account(store):
    invite(store, "one", role="reader", email="Someone@Clinic.example")
    with pytest.raises(InputError, match="another account has"):
        invite(store, "two", role="reader", email=" someone@clinic.example ")


@pytest.mark.parametrize("role", ALLOWED)
@pytest.mark.parametrize("action", sorted(frozenset().union(*ALLOWED.values())))
def test_every_role_may_do_what_the_matrix_says_and_a_disabled_account_nothing(role, action):
    assert Account("x", role, True, None).may(action) == (action in ALLOWED[role])
    assert not Account("x", role, False, None).may(action)


def test_whoever_sees_the_labels_does_not_read():
    """Blindness is a matter of roles too: an admin's dashboard shows agreement and verdicts."""
    assert not ALLOWED["admin"] & {"read", "adjudicate"}


@pytest.mark.parametrize("code", ["", "a b", "../x", "x" * 33, "<b>"])
def test_a_code_that_could_do_harm_elsewhere_is_refused(store, code):
    with pytest.raises(InputError, match="letters, digits, dots, dashes"):
        invite(store, code, role="reader")
