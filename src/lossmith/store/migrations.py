"""How a file of an older format becomes one of this format.

`MIGRATIONS[i]` takes an open transaction on a file of format i + 1 and makes it format i + 2 with plain SQL; checks and
the format number are brought up to date afterwards. A migration is never edited once released. Formats so far: 1.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from lossmith.store.schema import TABLES, reseal

Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: tuple[Migration, ...] = ()


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
