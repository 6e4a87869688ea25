"""The document that sign-up rules search: one request and the site's answer.

Everything here comes from strangers. Nothing raises on any bytes: what cannot
be read is left out and a note says so, in words that hold none of it.

Names given once in a form or a query are text; repeated ones are a list of
texts.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from relay.core.http import cookies
from relay.core.http.charsets import FALLBACK, charset_of, read_text
from relay.core.http.headers import Headers
from relay.core.rules.bodies import Copy, charset_said, read_body
from relay.core.rules.expression_tree import ROOTS
from relay.core.rules.forms import Form, UnreadableError, Values, urlencoded

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Document:
    """What JMESPath searches, and notes on what could not be read."""

    values: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()
    repeated: frozenset[str] = field(default=frozenset(), repr=False)
    """Names that an object of the request's JSON has twice: parsers differ in which
    they take (RFC 8259, 4). Here the last one counts."""
    answer_unread: bool = field(default=False, compare=False)
    """Whether the response's body was to be read and could not."""
    answer_start: bytes | None = field(default=None, repr=False, compare=False)
    """The beginning of the response's body, decoded; None where it was not copied."""
    guessed: Form | None = field(default=None, repr=False, compare=False)
    """The form, where nothing in the request says its charset."""


def document(
    *,
    query: str,
    path_params: Mapping[str, str],
    headers: Headers,
    request: Copy,
    response_status: int | None,
    response_headers: Headers,
    response: Copy | None,
) -> Document:
    """Put a request and the site's answer together.

    ``query`` is raw, without "?"; ``path_params`` are decoded; ``headers`` and
    ``response_headers`` are raw lines. ``response`` is None while the answer is
    not known. Header names become lower case; repeated lines are joined.
    """
    asked = asked_document(
        query=query, path_params=path_params, headers=headers, request=request
    )
    return answered(asked, response_status, response_headers, response)


def asked_document(
    *,
    query: str,
    path_params: Mapping[str, str],
    headers: Headers,
    request: Copy,
    roots: Container[str] = ROOTS,
) -> Document:
    """Put a request alone together, its answer still unknown.

    Headers and cookies are left empty where ``roots`` says that nobody looks.
    """
    notes: list[str] = []
    body = _read("the request's body", partial(read_body, request, asked=True), notes)
    form, guessed = _fields_of("form", body.form if body else None, notes)
    raw = query.encode("utf-8", "surrogateescape")
    given = _read("the query", lambda: urlencoded(raw), notes) if raw else None
    found, _ = _fields_of("query", given, notes)
    lines = headers if "cookies" in roots else ()
    cookie_lines = [_text(value) for name, value in lines if name.lower() == b"cookie"]
    values = {
        "form": form,
        "json": body.json if body else None,
        "query": found,
        "path": dict(path_params),
        "headers": _fields(headers if "headers" in roots else ()),
        "cookies": _first_of_each(cookies.pairs(cookie_lines)),
        "response": _answer(None, (), None),
    }
    if body is not None and body.charset:
        notes.append(f"the request's JSON was read as {body.charset}: it is not UTF-8")
    return Document(
        values,
        tuple(notes),
        body.repeated if body else frozenset(),
        guessed=guessed,
    )


def _fields_of(
    what: str, form: Form | None, notes: list[str]
) -> tuple[Values, Form | None]:
    """Return a form's fields, and the form if its charset was but guessed."""
    values, charset = form.read() if form else ({}, None)
    if charset:
        notes.append(_read_as(what, charset))
    return values, form if charset == FALLBACK else None


def _read_as(what: str, charset: str) -> str:
    return f"the {what} was read as {charset}: it is not UTF-8"


def answered(
    asked: Document, status: int | None, headers: Headers, body: Copy | None
) -> Document:
    """Put the site's answer into the document of its request."""
    notes: list[str] = []
    said = _read("the answer's body", partial(read_body, body, asked=False), notes)
    response = _answer(status, headers, said.json if said else None)
    whole = _read_again(asked, charset_said(response["headers"]))
    return replace(
        whole,
        values={**whole.values, "response": response},
        notes=(*whole.notes, *notes),
        answer_unread=said is None,
        answer_start=said.start if said else None,
    )


def _read_again(asked: Document, label: str | None) -> Document:
    """Read a form of an unknown charset in the response's: sites have one."""
    if asked.guessed is None or charset_of(label) in {None, FALLBACK}:
        return asked
    form, charset = asked.guessed.read(label)
    if charset in {None, FALLBACK}:
        return asked
    guess = _read_as("form", FALLBACK)
    notes = (
        _read_as("form", charset) if each == guess else each for each in asked.notes
    )
    return replace(
        asked, values={**asked.values, "form": form}, notes=tuple(notes), guessed=None
    )


def _answer(status: int | None, headers: Headers, json_value: Any) -> dict[str, Any]:
    return {
        "status": status,
        "headers": _fields(headers),
        "cookies": _set_cookies(headers),
        "json": json_value,
    }


def _read(what: str, parse: Callable[[], T], notes: list[str]) -> T | None:
    try:
        return parse()
    except UnreadableError as error:
        notes.append(f"{what} could not be read: {error}")
        return None


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return read_text(value).value


def _fields(headers: Headers) -> dict[str, str]:
    """Header fields by lower-case name; repeated lines joined as RFC 9110, 5.3."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(_text(name).lower(), []).append(_text(value))
    # A comma is part of a cookie's value (RFC 6265, 5.4).
    return {k: ("; " if k == "cookie" else ", ").join(v) for k, v in found.items()}


def _first_of_each(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def _set_cookies(headers: Headers) -> dict[str, str]:
    """Names and values that an answer sets; of a repeated name the last, as browsers.

    Not those that it clears: an empty value sets nothing to look at.
    """
    lines = (_text(value) for name, value in headers if name.lower() == b"set-cookie")
    pairs = (line.partition(";")[0].partition("=") for line in lines)
    return {
        name.strip(): value.strip().strip('"')
        for name, equals, value in pairs
        if equals and value.strip()
    }
