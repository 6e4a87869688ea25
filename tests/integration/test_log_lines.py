"""Lines of one turn of the loop are written together, and none is lost or torn."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import pytest

from relay.observability.logging import TOGETHER, get_logger, line_of

log = get_logger()


class Pieces(io.StringIO):
    """Keeps each write by itself, as a pipe gets it."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)


@contextmanager
def gathering() -> Iterator[list[str]]:
    """Gather lines, and give the pieces in which they are written."""
    with redirect_stderr(Pieces()) as written, log.gathering():
        yield written.pieces


def events(pieces: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in "".join(pieces).splitlines()]


async def test_the_lines_of_one_turn_are_one_write() -> None:
    with gathering() as pieces:
        for number in range(3):
            log.info("lead.queued", number=number)
        assert pieces == []
        await asyncio.sleep(0)
        assert len(pieces) == 1

    assert [event["number"] for event in events(pieces)] == [0, 1, 2]


@pytest.mark.parametrize("level", ["warning", "error"])
async def test_a_warning_goes_at_once_behind_what_came_before(
    level: str,
) -> None:
    with gathering() as pieces:
        log.info("lead.queued")
        getattr(log, level)("lead.rejected")

        assert [event["event"] for event in events(pieces)] == [
            "lead.queued",
            "lead.rejected",
        ]


@pytest.mark.parametrize("text", ["a", "é", "\U0001f600"])
async def test_no_write_is_longer_than_a_pipe_keeps_in_one_piece(
    text: str,
) -> None:
    with gathering() as pieces:
        for number in range(200):
            log.info("library.message", number=number, message=text * 30)

    assert len(pieces) > 1
    assert max(len(piece.encode()) for piece in pieces) <= TOGETHER
    assert all(piece.endswith("\n") for piece in pieces)
    assert [event["number"] for event in events(pieces)] == list(range(200))


async def test_a_line_longer_than_that_is_written_whole() -> None:
    with gathering() as pieces:
        log.info("short")
        log.info("long", message="a" * TOGETHER)

    assert [event["event"] for event in events(pieces)] == ["short", "long"]


async def test_another_threads_lines_are_written_by_it() -> None:
    with gathering() as pieces:
        await asyncio.to_thread(log.info, "outbox.opened")

        assert [event["event"] for event in events(pieces)] == ["outbox.opened"]


async def test_what_is_gathered_is_written_when_the_gathering_ends_by_an_error() -> (
    None
):
    pieces: list[str] = []

    def fail() -> None:
        nonlocal pieces
        with gathering() as pieces:
            log.info("relay.listening")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert [event["event"] for event in events(pieces)] == ["relay.listening"]


def test_a_line_has_its_time() -> None:
    assert json.loads(line_of({"event": "x"}))["timestamp"].endswith("Z")
