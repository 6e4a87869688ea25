"""The durable store: one contract, several databases."""

from __future__ import annotations

from relay.outbox.contract import Outbox


def open_outbox(url: str) -> Outbox:
    """Give the outbox that a database URL names; it is still to be opened.

    ``sqlite:///relay.db`` is relative to the current folder,
    ``sqlite:////var/lib/relay.db`` absolute. Raises ValueError for what is no
    such URL; the text names no more of it than its scheme, for the rest may hold
    a password.
    """
    scheme, mark, path = url.partition(":///")
    if scheme == "sqlite" and mark and path:
        # Here, so that what needs one database does not load the other's driver.
        from relay.outbox.sqlite import SqliteOutbox  # noqa: PLC0415

        return SqliteOutbox(path)
    raise ValueError(
        f"{url.partition(':')[0]!r} is no database this relay knows; "
        "give sqlite:///file"
    )
