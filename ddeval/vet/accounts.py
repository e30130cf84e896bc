"""Accounts: who may do what, and how a reader proves who they are.

A person is known to the trail by a code; the name and address live in one table and can be erased
without touching it. Passwords are argon2 hashes, sessions live in the store and end when they are
revoked. This module knows no HTTP: the app turns its answers into cookies and status codes.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Literal

import sqlalchemy as sa
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from ddeval.errors import InputError
from ddeval.vet import schema
from ddeval.vet.store import Store, now_utc

Role = Literal["admin", "reader", "adjudicator"]
Action = Literal["read", "adjudicate", "see_dashboard", "manage_users", "manage_batches", "export"]

ALLOWED: dict[Role, frozenset[Action]] = {
    "reader": frozenset({"read"}),
    "adjudicator": frozenset({"read", "adjudicate"}),
    "admin": frozenset({"see_dashboard", "manage_users", "manage_batches", "export"}),
}
"""An admin sees labels and agreement, so an admin does not read: whoever reads stays blind."""

PASSWORD_LENGTH = range(12, 257)
SESSION_IDLE = timedelta(hours=12)
SESSION_MOST = timedelta(days=7)
LINK_HOURS = {"invite": 72, "reset": 2}

WINDOW = timedelta(minutes=15)
ACCOUNT_FAILURES = 10
"""Wrong passwords an account takes in one window; it opens again by itself."""
ADDRESS_FAILURES = 100

COMMON = (
    "password",
    "passwort",
    "letmein",
    "welcome",
    "qwerty",
    "iloveyou",
    "dermatology",
    "changeme",
    "ddeval",
)
"""A password that is one of these with digits and signs around it is guessed first."""


@dataclass(frozen=True)
class Account:
    """One person as the rest of the program sees them."""

    code: str
    role: Role
    is_active: bool
    qualification: str | None
    """As stated by the admin: reported with every estimate the reader took part in."""

    def may(self, action: Action) -> bool:
        return self.is_active and action in ALLOWED[self.role]


class LogInRefused(Exception):
    """A log-in that failed. One text for every cause but the rate limit, so that nobody learns who exists."""

    def __init__(self, *, is_limited: bool) -> None:
        self.is_limited = is_limited
        super().__init__(
            "Too many attempts. Try again in 15 minutes." if is_limited else "Name or password is wrong."
        )


def invite(
    store: Store,
    code: str,
    *,
    role: Role,
    name: str | None = None,
    email: str | None = None,
    qualification: str | None = None,
) -> str:
    """Create an account without a password and return the token of its one-time invitation."""
    if role not in ALLOWED:
        raise InputError(
            f"--role {role}", f"{role!r}", expected="admin, reader or adjudicator", todo="Choose one."
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", code):
        raise InputError(
            f"user {code!r}",
            "a code of other characters",
            expected="1 to 32 letters, digits, dots, dashes",
            todo="Choose a code that does not name the person: it appears in exports.",
        )
    with store.write() as connection:
        taken = connection.execute(sa.select(schema.users.c.code).where(schema.users.c.code == code)).first()
        if taken:
            raise InputError(
                f"user {code!r}",
                "an account of this code",
                expected="a new code",
                todo="`ddeval vet user reset` sends a new link.",
            )
        address = email.strip().lower() if email else None
        if (
            address
            and connection.execute(
                sa.select(schema.users.c.code).where(schema.users.c.email == address)
            ).first()
        ):
            raise InputError(
                f"user {code!r}",
                "an address another account has",
                expected="one address an account: single sign-on goes by it",
                todo="Leave the address out, or `ddeval vet user forget` the other account.",
            )
        connection.execute(
            sa.insert(schema.users).values(
                code=code,
                name=name,
                email=address,
                role=role,
                qualification=qualification,
                is_active=True,
                created_utc=now_utc(),
            )
        )
        return _link(connection, code, "invite")


def reset_link(store: Store, code: str) -> str:
    """The token of a one-time link to set a new password; earlier links of the account stop working."""
    with store.write() as connection:
        _require(connection, code)
        connection.execute(
            sa.update(schema.links)
            .where(schema.links.c.user == code, schema.links.c.used_utc.is_(None))
            .values(used_utc=now_utc())
        )
        return _link(connection, code, "reset")


def use_link(store: Store, token: str, password: str) -> Account:
    """Set the password through an invitation or reset link; every open session of the account ends."""
    with store.write() as connection:
        row = connection.execute(
            sa.select(schema.links).where(
                schema.links.c.token_sha256 == _sha256(token), schema.links.c.used_utc.is_(None)
            )
        ).first()
        if row is None or row.expires_utc < now_utc():
            raise LogInRefused(is_limited=False)
        account = _require(connection, row.user)
        check_password(password, code=account.code)
        connection.execute(
            sa.update(schema.links)
            .where(schema.links.c.token_sha256 == row.token_sha256)
            .values(used_utc=now_utc())
        )
        _set_password(connection, account.code, password)
        return account


def log_in(store: Store, name: str, password: str, *, address: str) -> str:
    """The token of a new session for a code or e-mail address and its password.

    Parameters
    ----------
    address : str
        Where the attempt came from; limits count it.

    Raises
    ------
    LogInRefused
        For an unknown or disabled account, a wrong password or too many attempts; an unknown name
        takes as long as a wrong password.
    """
    account = log_in_check(store, name, password, address=address)
    return open_session(store, account.code)


def open_session(store: Store, code: str) -> str:
    """A session without a password, for an identity proved elsewhere (OIDC)."""
    token = secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    with store.write() as connection:
        if not _require(connection, code).is_active:
            raise LogInRefused(is_limited=False)
        connection.execute(
            sa.insert(schema.sessions).values(
                token_sha256=_sha256(token),
                user=code,
                created_utc=_iso(now),
                seen_utc=_iso(now),
                expires_utc=_iso(now + SESSION_MOST),
            )
        )
    return token


def account_of(store: Store, token: str | None) -> Account | None:
    """The active account behind a session token; None for a token that is unknown, old or revoked."""
    if not token:
        return None
    now = datetime.now(UTC)
    query = (
        sa.select(schema.users, schema.sessions.c.seen_utc)
        .join(schema.sessions, schema.sessions.c.user == schema.users.c.code)
        .where(
            schema.sessions.c.token_sha256 == _sha256(token),
            schema.sessions.c.revoked_utc.is_(None),
            schema.sessions.c.expires_utc > _iso(now),
            schema.sessions.c.seen_utc > _iso(now - SESSION_IDLE),
            schema.users.c.is_active,
        )
    )
    with store.read() as connection:
        row = connection.execute(query).first()
    if row is None:
        return None
    if row.seen_utc < _iso(now - timedelta(minutes=5)):  # written seldom: reading a page takes no lock
        with store.write() as connection:
            connection.execute(
                sa.update(schema.sessions)
                .where(schema.sessions.c.token_sha256 == _sha256(token))
                .values(seen_utc=_iso(now))
            )
    return _account(row)


def account_by_email(store: Store, email: str) -> Account | None:
    """The active account an identity provider's address belongs to."""
    with store.read() as connection:
        row = connection.execute(
            sa.select(schema.users).where(
                schema.users.c.email == email.strip().lower(), schema.users.c.is_active
            )
        ).first()
    return _account(row) if row else None


def log_out(store: Store, token: str) -> None:
    """End one session; its cookie is worth nothing from now on."""
    with store.write() as connection:
        connection.execute(
            sa.update(schema.sessions)
            .where(schema.sessions.c.token_sha256 == _sha256(token))
            .values(revoked_utc=now_utc())
        )


def set_active(store: Store, code: str, *, is_active: bool) -> None:
    """Disable or enable an account; disabling ends its sessions at once."""
    with store.write() as connection:
        _require(connection, code)
        connection.execute(
            sa.update(schema.users).where(schema.users.c.code == code).values(is_active=is_active)
        )
        if not is_active:
            _revoke_all(connection, code)


def forget_person(store: Store, code: str) -> None:
    """Erase name, address and password of an account; its events keep the code and the chain stays whole."""
    with store.write() as connection:
        _require(connection, code)
        connection.execute(
            sa.update(schema.users)
            .where(schema.users.c.code == code)
            .values(name=None, email=None, password_hash=None, is_active=False)
        )
        _revoke_all(connection, code)


def accounts(store: Store) -> list[Account]:
    """All accounts by code."""
    with store.read() as connection:
        rows = connection.execute(sa.select(schema.users).order_by(schema.users.c.code)).all()
    return [_account(row) for row in rows]


def check_password(password: str, *, code: str) -> None:
    """An InputError for a password that is short, long, common or made of the account's code."""
    core = re.sub(r"[\W\d_]+", "", password.lower())
    reason = ""
    if len(password) not in PASSWORD_LENGTH:
        reason = f"{len(password)} characters"
    elif core in COMMON or len(set(password)) < 5:
        reason = "one of the first guesses"
    elif code.lower() in password.lower():
        reason = "the account's own code in it"
    if reason:
        raise InputError(
            "password",
            reason,
            expected=f"{PASSWORD_LENGTH.start} to {PASSWORD_LENGTH.stop - 1} characters nobody guesses",
            todo="Three or four unrelated words do well.",
        )


def log_in_check(store: Store, name: str, password: str, *, address: str) -> Account:
    """The account whose password this is, or `LogInRefused`; failures are counted."""
    key = _sha256(name.strip().lower())
    since = _iso(datetime.now(UTC) - WINDOW)
    attempts = schema.attempts
    with store.read() as connection:
        recent = sa.select(sa.func.count()).select_from(attempts).where(attempts.c.ts_utc > since)
        by_account = connection.execute(recent.where(attempts.c.account_sha256 == key)).scalar_one()
        by_address = connection.execute(recent.where(attempts.c.address == address)).scalar_one()
        users = schema.users
        row = connection.execute(
            sa.select(users).where(
                (sa.func.lower(users.c.code) == name.strip().lower())
                | (users.c.email == name.strip().lower())
            )
        ).first()
    if by_account >= ACCOUNT_FAILURES or by_address >= ADDRESS_FAILURES:
        raise LogInRefused(is_limited=True)
    stored = row.password_hash if row is not None and row.password_hash else _nobodys_hash()
    is_right = _hasher().verify(password[:512], stored)
    if row is None or not is_right or not row.is_active or not row.password_hash:
        with store.write() as connection:
            connection.execute(
                sa.insert(attempts).values(account_sha256=key, address=address, ts_utc=now_utc())
            )
            connection.execute(sa.delete(attempts).where(attempts.c.ts_utc < since))
        raise LogInRefused(is_limited=False)
    return _account(row)


def _set_password(connection: sa.Connection, code: str, password: str) -> None:
    connection.execute(
        sa.update(schema.users)
        .where(schema.users.c.code == code)
        .values(password_hash=_hasher().hash(password))
    )
    _revoke_all(connection, code)


def _revoke_all(connection: sa.Connection, code: str) -> None:
    connection.execute(
        sa.update(schema.sessions)
        .where(schema.sessions.c.user == code, schema.sessions.c.revoked_utc.is_(None))
        .values(revoked_utc=now_utc())
    )


def _link(connection: sa.Connection, code: str, purpose: str) -> str:
    token = secrets.token_urlsafe(32)
    connection.execute(
        sa.insert(schema.links).values(
            token_sha256=_sha256(token),
            user=code,
            purpose=purpose,
            expires_utc=_iso(datetime.now(UTC) + timedelta(hours=LINK_HOURS[purpose])),
        )
    )
    return token


def _require(connection: sa.Connection, code: str) -> Account:
    row = connection.execute(sa.select(schema.users).where(schema.users.c.code == code)).first()
    if row is None:
        raise InputError(
            f"user {code!r}",
            "no such account",
            expected="a code `ddeval vet user list` shows",
            todo="Create it with `ddeval vet user add`.",
        )
    return _account(row)


def _account(row: sa.Row[tuple[object, ...]]) -> Account:
    fields = row._mapping
    return Account(fields["code"], fields["role"], bool(fields["is_active"]), fields["qualification"])


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


@cache
def _hasher() -> PasswordHash:
    return PasswordHash((Argon2Hasher(),))


@cache
def _nobodys_hash() -> str:
    """What an unknown name is checked against, so that it takes as long as a known one."""
    return _hasher().hash(secrets.token_urlsafe(16))
