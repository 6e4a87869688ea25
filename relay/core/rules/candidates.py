"""Requests that may be sign-ups and that no rule knows, and a rule for each.

A request that carries a click and matches no rule is kept by its method and folded
path, with the names of its fields and of the response's: never with a value. What
might be a value that somebody wrote as a name is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from urllib.parse import quote, unquote

from relay.core.rules.documents import Document

MAX_NAMES: Final = 40
"""Names kept of one kind of request; above any form that a person fills in."""

MAX_SEGMENTS: Final = 8
"""Segments kept of a path; what lies deeper is one ``*``."""

_DEPTH: Final = 4
_ITEMS: Final = 60

_NAME: Final = re.compile(
    r"(?:\d{1,2}[_-])?[A-Za-z_$][\w$.:-]{0,47}"
    r"(?:\[[\w-]{0,32}\](?:\.[A-Za-z_]\w{0,31})?){0,4}"
)
"""A name of a field, also of Next.js's actions (``1_email``), Django's wizards
(``0-email``), and of lists (``users[0].email``)."""

_PLAIN: Final = re.compile(r"[A-Za-z_]\w*")
_SEGMENT: Final = re.compile(r"[A-Za-z_.~-][\w.~-]{0,31}|v\d{1,3}")
_RANDOM: Final = re.compile(
    r"\d{5,}|[0-9a-f]{12,}|(?=\w*\d)(?=\w*[A-Z])(?=\w*[a-z])\w{10,}|(?:[a-z]+\d+){3,}",
    re.ASCII,
)
"""What a person did not write as a word: numbers, hashes, ids."""


_COLLECTION: Final = re.compile(
    r"u|users?|members?|people|profiles?|teams?|orgs?|organi[sz]ations?|accounts?|"
    r"workspaces?|compan(?:y|ies)|customers?|invitations?|invites?|referrals?",
    re.IGNORECASE,
)
"""Parts of a path after which mostly a name follows: /users/ada."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kind of request that may be a sign-up.

    ``fields`` are expressions for the fields that were sent, ``answers`` for what the
    response's JSON has; ``types`` are the content types that came, ``statuses`` those
    of the responses; ``pages``: some were HTML pages. Times are epoch ms.
    """

    method: str
    path: str
    fields: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    pages: bool = False
    times: int = 0
    first_at: int = 0
    last_at: int = 0

    @property
    def label(self) -> str:
        """What people call it: "POST /join"."""
        return f"{self.method} {self.path}"

    @property
    def likelihood(self) -> int:
        """How much it looks like a sign-up; 0 where nothing speaks for it."""
        names = " ".join(self.fields).lower()
        ok = any(status[:1] in "23" for status in self.statuses)
        return (
            4 * bool(_SIGN_UP.search(self.path))
            + 3 * ("mail" in names or "phone" in names)
            + 2 * ("password" in names or "passwd" in names)
            + ok
            - 5 * bool(_OTHER.search(self.path))
        )


_SIGN_UP: Final = re.compile(
    r"sign[-_]?up|regist|join|enrol|subscri|onboard|create[-_]?(?:user|account)|"
    r"accounts?\b|users?\b|members?\b|customers?\b|trial|waitlist|inscri|anmeld",
    re.IGNORECASE,
)
_OTHER: Final = re.compile(
    r"log-?_?(?:in|out)|sign-?_?(?:in|out)|session|search|track|collect|analytics|"
    r"events?\b|beacon|metrics|telemetry|csp|report|password|refresh|heartbeat|ping",
    re.IGNORECASE,
)


_DOES: Final = re.compile(
    rf"{_SIGN_UP.pattern}|{_OTHER.pattern}|^(?:new|create|add|me|self|current|index|"
    r"confirm\w*|verify\w*|activate|accept|invite|settings|update|save|batch|v\d+)$",
    re.IGNORECASE,
)
"""What follows there else: what is done."""


def fold_path(path: str) -> str:
    """Return a raw path with a placeholder for each part that names one thing.

    ``/users/42/join`` is ``/users/{id}/join``, so that they count together.
    """
    parts = path.split("/")[1:]
    folded = [
        _fold(part, before)
        for part, before in zip(parts[:MAX_SEGMENTS], ["", *parts], strict=False)
    ]
    names: list[str] = []
    for number, part in enumerate(folded):
        if part is None:
            names.append("{id}" if not names else f"{{id{len(names) + 1}}}")
            folded[number] = names[-1]
    deeper = ["*"] if len(parts) > MAX_SEGMENTS else []
    return "/" + "/".join([part or "" for part in folded] + deeper)


def _fold(raw: str, before: str) -> str | None:
    """Return a part of a path, None for one that names a thing or a person."""
    text = unquote(raw.partition(";")[0])
    if text in {"", ".", ".."}:
        return text
    if _COLLECTION.fullmatch(before) and not _DOES.search(text):
        return None
    if not _SEGMENT.fullmatch(text) or _RANDOM.search(text.replace("-", "")):
        return None
    return quote(text, safe="~")


def observe(document: Document) -> dict[str, Any]:
    """Return the names that a request and its response have, as expressions."""
    values = document.values
    form = values["form"]
    fields = [
        *(_expression("form", name) for name, given in form.items() if _filled(given)),
        *_json_names("json", values["json"]),
        *(
            _expression("query", name)
            for name, given in values["query"].items()
            if _filled(given)
        ),
    ]
    said = values["response"]
    ids = (
        _expression(f"response.{root}", name)
        for root in ("headers", "cookies")
        for name in said[root]
    )
    answers = [
        *_json_names("response.json", said["json"]),
        *(each for each in ids if each and _ID.search(each)),
    ]
    return {"fields": _kept(fields), "answers": _kept(answers)}


def _filled(given: Any) -> bool:
    # A body that is no form reads as one name without a value.
    return any(given) if isinstance(given, list) else bool(given)


def _kept(found: Iterable[str | None]) -> list[str]:
    return [*islice(dict.fromkeys(each for each in found if each), MAX_NAMES)]


def _expression(root: str, name: str) -> str | None:
    """Return what finds a name in the document, None for one that may be a value."""
    if not _NAME.fullmatch(name) or _RANDOM.search(name):
        return None
    return f"{root}.{name}" if _PLAIN.fullmatch(name) else f"{root}.{json.dumps(name)}"


def _json_names(where: str, value: Any, depth: int = _DEPTH) -> Iterator[str]:
    """Return expressions for what stands in JSON, the outer before the inner."""
    if isinstance(value, list):
        if value and isinstance(value[0], dict):
            yield from _json_names(f"{where}[0]", value[0], depth)
        return
    if not isinstance(value, dict) or depth == 0:
        return
    inner = []
    for name, each in list(value.items())[:_ITEMS]:
        if (expression := _expression(where, name)) is None:
            continue
        if isinstance(each, dict | list):
            inner.append((expression, each))
        elif each not in (None, ""):
            yield expression
    for expression, each in inner:
        yield from _json_names(expression, each, depth - 1)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Join what two requests of one kind have shown."""
    return {
        "fields": _kept([*old["fields"], *new["fields"]]),
        "answers": _kept([*old["answers"], *new["answers"]]),
        "types": _kept([*old["types"], *new["types"]])[:5],
        "statuses": _kept([*old["statuses"], *new["statuses"]])[:10],
        "pages": old["pages"] or new["pages"],
    }


def candidate(
    name: str, seen: Mapping[str, Any], times: int, first_at: int, last_at: int
) -> Candidate:
    """Return a candidate of what is kept of it (:func:`observe`, :func:`merged`)."""
    method, _, path = name.partition(" ")
    return Candidate(
        method,
        path,
        tuple(seen["fields"]),
        tuple(seen["answers"]),
        tuple(seen["types"]),
        tuple(sorted(seen["statuses"])),
        seen["pages"],
        times,
        first_at,
        last_at,
    )


# --- The rule for a candidate. ---

_ID: Final = re.compile(
    r"\.\"?(?:_?id|uuid|uid|sub|pk|"
    r"(?:x-)?(?:user|customer|account|member|local|profile)[_-]?id)\"?$",
    re.IGNORECASE,
)
_OF_USER: Final = re.compile(r"user|customer|account|member|profile", re.IGNORECASE)
_EMAIL: Final = re.compile(r"e-?_?mail(?:_?address)?(?!.*confirm)", re.IGNORECASE)
_NO_ID: Final = re.compile(
    r"^query\.|pass|token|csrf|secret|captcha|code|honey|agree|terms", re.IGNORECASE
)
_FULL_NAME: Final = re.compile(
    r"[._\[\"](?:full|display|first|user|your)?[_-]?name[\]\"]*$", re.IGNORECASE
)


def suggest(found: Candidate) -> str:
    """Write the TOML of a rule for a candidate, with what to look at before use."""
    ids = sorted(filter(_ID.search, found.answers), key=_rank)
    emails = [each for each in found.fields if _EMAIL.search(each)]
    names = [each for each in found.fields if _FULL_NAME.search(each)]
    others = [each for each in found.fields if not _NO_ID.search(each)]
    customer = (ids or emails or others or ["response.json.id"])[0]
    lines = [f"# {each}" for each in _remarks(found, ids, customer)]
    lines.append("[[signup]]")
    if found.method != "POST":
        lines.append(f"method = {quoted(found.method)}")
    lines.append(f"path = {quoted(found.path)}")
    lines.append(f"customer_external_id = {quoted(customer)}")
    if emails:
        lines.append(f"customer_email = {quoted(emails[0])}")
    if names:
        lines.append(f"customer_name = {quoted(names[0])}")
    return "\n".join(lines) + "\n"


def _rank(expression: str) -> tuple[bool, int, int]:
    return (
        _OF_USER.search(expression) is None,
        expression.count("."),
        len(expression),
    )


def _remarks(found: Candidate, ids: list[str], customer: str) -> Iterator[str]:
    types = ", ".join(found.types) or "no content type"
    statuses = ", ".join(found.statuses)
    yield f"{found.label}: seen {often(found.times)}, {types}, HTTP {statuses}"
    if found.fields:
        yield f"It sends {', '.join(found.fields)}"
    if found.answers:
        yield f"The response has {', '.join(found.answers)}"
    if not ids and customer.startswith("response"):
        yield "No field was seen that could be the customer's id: name it below."
    elif not ids:
        yield (
            "The response was seen without an id, so this one comes from the request"
            " alone:"
        )
        yield (
            "anybody can send it for somebody else. Better an id that the site answers"
            " with."
        )
    if any(each.startswith("json.operationName") for each in found.fields):
        yield "Other operations of GraphQL come to this path too: tell them apart by"
        yield "when = \"json.operationName == '…'\""
    if found.pages:
        yield ("The site answered with HTML: say what an accepted sign-up has, such as")
        yield 'when = "response.status == `302` || response.status == `303`"'


def often(times: int) -> str:
    """Return how often, in words: "once", "3 times"."""
    return "once" if times == 1 else f"{times} times"


def quoted(text: str) -> str:
    """Return a TOML string; one in single quotes where that needs no escapes."""
    if '"' in text and "'" not in text:
        return f"'{text}'"
    return json.dumps(text)
