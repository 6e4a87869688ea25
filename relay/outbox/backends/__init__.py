"""The databases that an outbox can be kept in, and which one a URL names."""

from __future__ import annotations

from relay.outbox.contract import Outbox
from relay.outbox.encryption import PLAIN, Seal


def open_outbox(url: str, seal: Seal = PLAIN) -> Outbox:
    """Return the outbox that a database URL names; it is still to be opened.

    ``sqlite:///relay.db`` is relative to the current folder,
    ``sqlite:////var/lib/relay.db`` absolute; ``postgresql://user@host/database``
    is as libpq has it. ``seal`` encrypts personal data. Raises ValueError for what is
    no such URL; the text names no more of it than its scheme, for the rest may hold a
    password.
    """
    # Imported here, so that what needs one database does not load the other's driver.
    scheme, mark, path = url.partition(":///")
    if scheme == "sqlite" and mark and path:
        from relay.outbox.backends.sqlite import SqliteOutbox  # noqa: PLC0415

        return SqliteOutbox(path, seal=seal)
    if is_postgres(url):
        from relay.outbox.backends.postgres import PostgresOutbox  # noqa: PLC0415

        return PostgresOutbox(url, seal=seal)
    raise ValueError(
        f"{url.partition(':')[0]!r} is no database this relay knows; "
        "give sqlite:///file or postgresql://user@host/database"
    )


def is_postgres(url: str) -> bool:
    """Whether a URL names a database on a PostgreSQL server."""
    return url.startswith(("postgresql://", "postgres://"))
