"""How a file of an older format becomes one of this format.

`MIGRATIONS[i]` takes an open transaction on a file of format i + 1 and makes it format i + 2 with plain SQL; checks and
the format number are brought up to date afterwards. A migration is never edited once released. Formats so far:

1. six tables; every evaluation is a training.
2. an evaluation says which kind of work it was, with what settings, and what it made besides metrics; a candidate says
   which loss tuning made of it.
3. a candidate may be tuned with settings of its own, so that a tuning goes on where an earlier one ended.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from lossmith.store.schema import TABLES, reseal

Migration = Callable[[sqlite3.Connection], None]


def name_the_work(connection: sqlite3.Connection) -> None:
    """1 → 2: what is stored so far are trainings of the losses that were proposed."""
    for column, value in (("work", "train"), ("settings", ""), ("product", "")):
        connection.execute(f"ALTER TABLE evaluation ADD COLUMN {column} TEXT NOT NULL DEFAULT '{value}'")
    connection.execute("ALTER TABLE candidate ADD COLUMN tuned TEXT")


def tune_candidates_apart(connection: sqlite3.Connection) -> None:
    """2 → 3: so far every candidate was tuned as its method says."""
    connection.execute("ALTER TABLE candidate ADD COLUMN tuning TEXT NOT NULL DEFAULT ''")


MIGRATIONS: tuple[Migration, ...] = (name_the_work, tune_candidates_apart)


def current_format() -> int:
    """The format this Lossmith writes."""
    return 1 + len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, found: int) -> None:
    """Bring a file of format `found` up to date in one transaction; a failure leaves it as it was."""
    if found == current_format():
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for migration in MIGRATIONS[found - 1 :]:
            migration(connection)
        connection.execute("UPDATE run SET format = ?", (current_format(),))
        for table in TABLES:
            reseal(connection, table.name)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
