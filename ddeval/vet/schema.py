"""The tables of the vetting store, and how an older store becomes a newer one.

Events are append-only: triggers refuse UPDATE and DELETE, on SQLite and on PostgreSQL. What may
change (drafts, who is logged in, which case is on whose screen) lives in tables of its own, so that
the trail holds decisions and nothing else.
"""

from collections.abc import Callable

import sqlalchemy as sa

VERSION = 2
"""Version of the schema below; `migrate` brings an older store here, step by step."""

metadata = sa.MetaData()

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("code", sa.Text, primary_key=True),  # what the trail, the reports and exports show
    sa.Column("name", sa.Text),  # the only table that holds a person's name: erasable
    sa.Column("email", sa.Text, unique=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("qualification", sa.Text),
    sa.Column("password_hash", sa.Text),
    sa.Column("is_active", sa.Boolean, nullable=False, default=True),
    sa.Column("created_utc", sa.Text, nullable=False),
    sa.CheckConstraint("role in ('admin', 'reader', 'adjudicator')", name="role_is_known"),
)

links = sa.Table(
    "links",  # one-time invitations and password resets
    metadata,
    sa.Column("token_sha256", sa.Text, primary_key=True),
    sa.Column("user", sa.Text, sa.ForeignKey("users.code"), nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("expires_utc", sa.Text, nullable=False),
    sa.Column("used_utc", sa.Text),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token_sha256", sa.Text, primary_key=True),
    sa.Column("user", sa.Text, sa.ForeignKey("users.code"), nullable=False),
    sa.Column("created_utc", sa.Text, nullable=False),
    sa.Column("seen_utc", sa.Text, nullable=False),
    sa.Column("expires_utc", sa.Text, nullable=False),
    sa.Column("revoked_utc", sa.Text),
)

attempts = sa.Table(
    "attempts",  # failed log-ins, for the rate limit and the lock-out of one account
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("account_sha256", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("ts_utc", sa.Text, nullable=False),
    sa.Index("attempts_account", "account_sha256", "ts_utc"),
    sa.Index("attempts_address", "address", "ts_utc"),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("readings_per_case", sa.Integer, nullable=False),
    sa.Column("manifest_sha256", sa.Text, nullable=False),
    sa.Column("queue_sha256", sa.Text, nullable=False),
    sa.Column("settings", sa.Text, nullable=False),  # JSON: conditions file, reveal policy, proposers
    sa.Column("opened_utc", sa.Text, nullable=False),
    sa.Column("closed_utc", sa.Text),
)

items = sa.Table(
    "items",  # the queue as it was opened; never sent to a reader's browser
    metadata,
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.name"), primary_key=True),
    sa.Column("item", sa.Integer, primary_key=True),
    sa.Column("case_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("stratum", sa.Text, nullable=False),
    sa.Column("inclusion_probability", sa.Float),
    sa.Column("given_label", sa.Text),
    sa.Column("label_basis", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("rank", sa.Integer),  # of the case's most doubtful image; the queue itself is shuffled
    sa.Column("predicted_label", sa.Text),
    sa.Index("items_case", "batch", "case_id"),
)

pairs = sa.Table(
    "pairs",  # two photographs that may be one, to be decided once
    metadata,
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.name"), primary_key=True),
    sa.Column("pair", sa.Integer, primary_key=True),
    sa.Column("image_id_a", sa.Text, nullable=False),
    sa.Column("image_id_b", sa.Text, nullable=False),
    sa.Column("similarity", sa.Float),
    sa.Column("kind", sa.Text),
)

screens = sa.Table(
    "screens",  # the case on a reader's screen: reserves it, and holds the draft
    metadata,
    sa.Column("batch", sa.Text, primary_key=True),
    sa.Column("reader", sa.Text, primary_key=True),
    sa.Column("task", sa.Text, primary_key=True),  # read or adjudicate
    sa.Column("case_id", sa.Text, nullable=False),
    sa.Column("reading_no", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("nonce", sa.Text, nullable=False, unique=True),
    sa.Column("shown_utc", sa.Text, nullable=False),
    sa.Column("draft", sa.Text),
    sa.Column("draft_utc", sa.Text),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("ts_utc", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("batch", sa.Text, nullable=False),
    sa.Column("case_id", sa.Text, nullable=False),
    sa.Column("reading_no", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("old", sa.Text),
    sa.Column("new", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("blind_level", sa.Text, nullable=False),
    sa.Column("shown_at", sa.Text),
    sa.Column("nonce", sa.Text, nullable=False, unique=True),
    sa.Column("app_version", sa.Text, nullable=False),
    sa.Column("prev_hash", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index("events_case", "batch", "case_id"),
    sa.Index("events_actor", "batch", "actor"),
)

# An undo is an event of its own and the next answer a new revision, so nothing here is ever updated.
sa.Index(
    "one_reading",
    events.c.batch,
    events.c.case_id,
    events.c.actor,
    events.c.reading_no,
    events.c.revision,
    unique=True,
    sqlite_where=events.c.kind == "reading",
    postgresql_where=events.c.kind == "reading",
)
sa.Index(
    "one_adjudication",
    events.c.batch,
    events.c.case_id,
    events.c.revision,
    unique=True,
    sqlite_where=events.c.kind == "adjudication",
    postgresql_where=events.c.kind == "adjudication",
)
sa.Index(
    "one_undo",
    events.c.batch,
    events.c.case_id,
    events.c.actor,
    events.c.reading_no,
    events.c.revision,
    unique=True,
    sqlite_where=events.c.kind == "undo",
    postgresql_where=events.c.kind == "undo",
)

# A blind answer stays when it is taken back after the reveal: that undo opens an unblinded round beside it.
CURRENT = """
CREATE VIEW current_readings AS
SELECT e.* FROM events e
WHERE e.kind IN ('reading', 'adjudication') AND NOT EXISTS (
  SELECT 1 FROM events u
  WHERE u.kind = 'undo' AND u.blind_level = 'blind' AND u.batch = e.batch
    AND u.case_id = e.case_id AND u.actor = e.actor
    AND u.reading_no = e.reading_no AND u.revision = e.revision)
"""

REFUSAL = "events are append-only"

SQLITE_TRIGGERS = tuple(
    f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events "
    f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
    for verb in ("UPDATE", "DELETE")
)
POSTGRESQL_TRIGGERS = (
    f"CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$",
    "CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON events "
    "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events "
    "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
)


def _first(connection: sa.Connection) -> None:
    metadata.create_all(connection)
    connection.exec_driver_sql(CURRENT)
    triggers = POSTGRESQL_TRIGGERS if connection.dialect.name == "postgresql" else SQLITE_TRIGGERS
    for trigger in triggers:
        connection.exec_driver_sql(trigger)


def _second(connection: sa.Connection) -> None:
    """Rank and prediction of each item, and pairs of photographs; a store made today has them already."""
    pairs.create(connection, checkfirst=True)
    there = {column["name"] for column in sa.inspect(connection).get_columns("items")}
    for name, kind in (("rank", "INTEGER"), ("predicted_label", "TEXT")):
        if name not in there:
            connection.exec_driver_sql(f"ALTER TABLE items ADD COLUMN {name} {kind}")


STEPS: tuple[Callable[[sa.Connection], None], ...] = (_first, _second)
"""STEPS[i] brings a store of version i to version i + 1."""


def version(connection: sa.Connection) -> int:
    """Version of the store behind `connection`; 0 for an empty database."""
    if not sa.inspect(connection).has_table("meta"):
        return 0
    row = connection.execute(sa.select(meta.c.value).where(meta.c.key == "schema_version")).scalar()
    return int(row or 0)


def migrate(connection: sa.Connection) -> int:
    """Run the missing steps inside the caller's transaction; the version it was before."""
    before = version(connection)
    for step in STEPS[before:]:
        step(connection)
    if before < len(STEPS):
        connection.execute(sa.delete(meta).where(meta.c.key == "schema_version"))
        connection.execute(sa.insert(meta).values(key="schema_version", value=str(len(STEPS))))
    return before
