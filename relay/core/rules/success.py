"""Whether a site accepted a sign-up, by its response alone: the default of ``when``.

It recognises refusals as frameworks and services send them, and accepts what is clear.
What is neither makes no lead: it is counted, with the ``when`` that would decide it.
Nothing that is returned here holds a value of the request or the response.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urljoin, urlsplit

from relay.core.http.headers import Headers
from relay.core.rules.action_results import REDIRECT, unwrapped
from relay.core.rules.json_text import JsonError, looks_like_json, read_json
from relay.core.rules.json_verdict import Ruling, judge_json, judge_text


class Verdict(NamedTuple):
    """What a response says of a sign-up.

    ``reason`` is a sentence without values; ``when`` an expression that would decide
    responses like an undecided one, None where none is known.
    """

    outcome: Ruling
    reason: str
    when: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the default test knows of a request.

    ``target`` is raw; ``host`` as the visitor sees it; ``headers`` by lower-case name.
    ``names`` are those of the fields that were sent.
    """

    target: str = "/"
    host: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, target: str, host: str, lines: Headers) -> Asked:
        """Return what is known of a request by its raw header lines."""
        known = {
            name.decode("ascii"): value.decode("utf-8", "replace")
            for each, value in lines
            if (name := each.lower()) in _LOOKED_AT
        }
        return cls(target, host, known)


@dataclass(frozen=True, slots=True)
class Answered:
    """What the default test knows of a response.

    ``body`` is its beginning where that was copied, else None; ``unreadable``: it
    was to be read and could not.
    """

    status: int
    headers: Mapping[str, str]
    json: Any
    cookies: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    unreadable: bool = False


_SENT_AGAIN: Final = frozenset({307, 308})

_INERTIA: Final = "x-inertia-location"
"""Sends an Inertia page to another address, with status 409."""
_CLEAR: Final = frozenset({201, 204, 205})

_SEE_OTHER: Final = "response.status == `302` || response.status == `303`"

_LOGS_IN: Final = re.compile(
    r"logged_?in|remember|auth[-_.]?token|access[-_.]?token|refresh[-_.]?token|"
    r"id[-_.]?token|jwt|identity|aspnetcore\.cookies|aspxauth|auth(?:js)?\.session|"
    r"user_?id|customer_?id",
    re.IGNORECASE,
)
"""Cookies that none but a user gets, as frameworks call them."""

_NEXT: Final = 'response.headers."x-action-redirect"'
"""What a server action of Next.js that redirects sends."""

_ANYBODY: Final = re.compile(r"csrf|xsrf|antiforgery|locale|lang|flash", re.IGNORECASE)
"""Cookies that a form gets whether it is accepted or not."""

_REDIRECTS: Final = (
    *("location", "hx-redirect", "hx-location", "x-action-redirect"),
    *("x-remix-redirect", "turbolinks-location", "x-up-location", "refresh"),
    _INERTIA,
)
"""Headers by which a server sends a page on: RFC 9110, htmx, Next.js's server actions,
Remix, Turbolinks, Unpoly, the one that browsers alone define, and Inertia."""

_JSON_REDIRECTS: Final = (
    *("redirect", "redirect_url", "redirectUrl", "redirectURL", "redirect_to"),
    *("redirectTo", "callbackUrl", "location", "url"),
)

_VALIDATES: Final = ("precognition", "x-up-validate")
"""Headers of a request that only has its fields checked (Laravel's Precognition,
Unpoly): nothing is created, whatever the response."""

_LOOKED_AT: Final = frozenset({b"referer", *(each.encode() for each in _VALIDATES)})

_ERROR_PARAMETER: Final = re.compile(
    r"err(?:or)?s?|.*_errors?|error[_-]?\w*|fail(?:ed|ure)?|invalid\w*|\w*exists|"
    r"\w*taken|duplicate\w*|already\w*|rejected|refused|denied",
    re.IGNORECASE,
)
_STATE: Final = frozenset({"status", "state", "result", "outcome", "code", "type"})
_SENTENCE: Final = frozenset(
    {"message", "msg", "flash", "notice", "alert", "reason", "info", "toast"}
)
"""Parameters that carry a sentence for people (Supabase's templates)."""

_NO_ERROR: Final = frozenset({"0", "false", "none", "null", "no"})
_SUCCESS_PARAMETER: Final = re.compile(
    r"success\w*|\w*_success|registered|signed[_-]?up|created|thanks?|thank[_-]?you|"
    r"welcome",
    re.IGNORECASE,
)
_SUCCESS_WORDS: Final = frozenset({"success", "registered", "created", "ok", "done"})
_NO_SUCCESS: Final = frozenset(
    {
        *(f"success={word}" for word in ("0", "false", "no")),
        "csrf=true",  # Auth.js, of a request without its token
        *(
            f"{name}={word}"
            for name in ("status", "result", "state", "outcome")
            for word in ("error", "fail", "failed", "failure", "invalid")
        ),
    }
)
_ERROR_PATH: Final = re.compile(r"(?:^|[-_.])(?:errors?|fail(?:ed|ure)?)(?:$|[-_.])")

_ERROR_PAGE: Final = re.compile(r"/(?:40[0-9]|50[0-9])(?:\.[a-z]{3,5})?")

_FORM_PAGE: Final = re.compile(
    r"(?:sign[-_]?up|regist(?:er|ration|rations)|join|new|create[-_]?account)"
)
_TO_ERROR: Final = "a redirect that names an error"

_TEXT_START: Final = 2048
"""Bytes of a text or a page that are looked at."""


def judge(asked: Asked, response: Answered) -> Verdict:
    """Judge a response to a sign-up (module docstring)."""
    for test in (_by_status, _by_purpose, _by_signals, _by_redirect, _by_json):
        if (verdict := test(asked, response)) is not None:
            return verdict
    return _by_body(response)


def _by_status(_: Asked, response: Answered) -> Verdict | None:
    if response.status == 409 and _INERTIA in response.headers:
        return None
    if response.status == 401 and _is_pending(response.json):
        why = "HTTP 401 that asks to verify the address"
        return Verdict(Ruling.UNDECIDED, why, _VERIFY)
    if response.status >= 400:
        return Verdict(Ruling.REFUSED, f"HTTP {response.status}")
    if response.status in _SENT_AGAIN:
        again = f"HTTP {response.status}: the browser sends it again, elsewhere"
        return Verdict(Ruling.REFUSED, again)
    return None


_VERIFY: Final = "response.json.data.flows[?id == 'verify_email' && is_pending]"


def _is_pending(value: Any) -> bool:
    """Whether allauth's headless API waits for the address, of a new user or not."""
    match value:
        case {"data": {"flows": [*flows]}}:
            return any(isinstance(e, dict) and e.get("is_pending") for e in flows)
    return False


def _by_purpose(asked: Asked, _: Answered) -> Verdict | None:
    if any(each in asked.headers for each in _VALIDATES):
        return Verdict(Ruling.REFUSED, "the request only had its fields checked")
    return None


_GRPC_STATUS: Final = re.compile(rb"grpc-status:[ \t]*([0-9]{1,3})")


def _by_signals(_: Asked, response: Answered) -> Verdict | None:
    """Judge by headers that say it beside the status: gRPC-web's, htmx's events."""
    status = response.headers.get("grpc-status") or _grpc_trailer(response)
    if status is not None:
        ok = status.strip() == "0"
        outcome = Ruling.ACCEPTED if ok else Ruling.REFUSED
        return Verdict(outcome, f"gRPC status {status.strip()[:3]}")
    events = (response.headers.get(name, "") for name in _TRIGGERS)
    if any(map(_is_error_event, events)):
        return Verdict(Ruling.REFUSED, "an event that names an error")
    return None


_TRIGGERS: Final = ("hx-trigger", "hx-trigger-after-swap", "hx-trigger-after-settle")


def _is_error_event(text: str) -> bool:
    if looks_like_json(text) and text:
        try:
            return judge_json({"data": read_json(text)})[0] is Ruling.REFUSED
        except JsonError:
            return False
    return any(_ERROR_EVENT.search(each) for each in text.split(",", _EVENTS)[:_EVENTS])


_ERROR_EVENT: Final = re.compile(r"error|fail|invalid", re.IGNORECASE)
_EVENTS: Final = 20


def _grpc_trailer(response: Answered) -> str | None:
    """Return gRPC-web's status, which ends the body."""
    kind = response.headers.get("content-type", "").lower()
    if not kind.startswith("application/grpc-web") or not response.body:
        return None
    body = response.body
    if kind.startswith("application/grpc-web-text"):
        # Each frame may be padded of itself.
        parts = re.findall(rb"[A-Za-z0-9+/]+={0,2}", body)
        body = b"".join(base64.b64decode(e + b"==") for e in parts if len(e) % 4 != 1)
    found = _GRPC_STATUS.search(body)
    return found[1].decode() if found else None


def _by_redirect(asked: Asked, response: Answered) -> Verdict | None:
    for name in _REDIRECTS if response.status >= 300 else _REDIRECTS[1:]:
        if target := _target(name, response.headers.get(name, "").strip()):
            return _of_redirect(asked, response, target)
    if response.status >= 300:
        why = f"HTTP {response.status} without a Location"
        return Verdict(Ruling.UNDECIDED, why, _evidence(response))
    return None


def _target(name: str, value: str) -> str | None:
    if name == "refresh":
        _, _, url = value.partition("=")
        return url.strip(" '\"") or None
    if name == "hx-location" and value.startswith("{"):
        found = re.search(r'"path"\s*:\s*"([^"]*)"', value)
        return found[1] if found else None
    return value.partition(";")[0] if name == "x-action-redirect" else value


def _of_redirect(asked: Asked, response: Answered, target: str) -> Verdict:
    here = f"http://{asked.host}{asked.target}"
    try:
        form = urlsplit(here)
        page = urlsplit(urljoin(here, asked.headers.get("referer", here)))
        goes = urlsplit(urljoin(here, target))
        places = {_place(form), _place(page)}
        place = _place(goes)
    except ValueError:
        return Verdict(Ruling.UNDECIDED, "a redirect that cannot be read")
    if name := _error(goes):
        return Verdict(Ruling.REFUSED, f"{_TO_ERROR}: {name}")
    if place in places:
        return _back(response, goes, form, page)
    if place.path != "/" and place.path in {each.path for each in places}:
        why = "a redirect to the form's path on another host"
        return Verdict(Ruling.UNDECIDED, why, _evidence(response))
    # Many sites have browsers send no more of the Referer than its origin.
    known = "referer" in asked.headers and _place(page).path != "/"
    if not known and _FORM_PAGE.fullmatch(place.path.rpartition("/")[2]):
        why = "a redirect to what may be the form: the Referer does not say"
        return Verdict(Ruling.UNDECIDED, why, _evidence(response))
    return Verdict(Ruling.ACCEPTED, "a redirect to another page")


def _back(
    response: Answered, goes: SplitResult, form: SplitResult, page: SplitResult
) -> Verdict:
    """Judge a redirect to the form, or to the page that it was on."""
    added = sorted(_names(goes) - _names(form) - _names(page))
    said = [each for each in _parameters(goes) if each[0] in {*added, goes.fragment}]
    if any(_says_success(*each) for each in said):
        # Spring's /register?success, WordPress' ?checkemail=registered
        why = "a redirect back to the form that says it is accepted"
        return Verdict(Ruling.ACCEPTED, why)
    if added:
        return Verdict(
            Ruling.UNDECIDED,
            f"a redirect back to the form, with {added[0]}=",
            f"contains(response.headers.location || '', '{added[0]}=')",
        )
    if _place(goes).path == "/" and _place(form).path != "/":
        why = "a redirect to the first page, where the form was"
        return Verdict(Ruling.UNDECIDED, why, _evidence(response))
    if _place(goes) != _place(page) and _place(page).path != "/":
        # Shopify: from /account/register to /account, which the form was sent to.
        why = "a redirect to the form's own address, which was on another page"
        return Verdict(Ruling.UNDECIDED, why, _evidence(response))
    if any(_LOGS_IN.search(name) for name in response.cookies):
        # WooCommerce: back to the page of the form, which shows the account then.
        why = "a redirect back to the form, with a cookie as for who is logged in"
        return Verdict(Ruling.UNDECIDED, why, _evidence(response))
    return Verdict(Ruling.REFUSED, "a redirect back to the form")


def _says_success(name: str, value: str) -> bool:
    word = value.strip().lower()
    named = _SUCCESS_PARAMETER.fullmatch(name) and word not in _NO_ERROR
    if name.lower() in _SENTENCE and _sentence(word) is Ruling.ACCEPTED:
        return True
    return bool(named) or word in _SUCCESS_WORDS


def _sentence(word: str) -> Ruling:
    return judge_text(re.sub(r"[-_+]", " ", word))[0]


def _evidence(response: Answered) -> str | None:
    """Return a ``when`` for what a response with this one's headers could show."""
    names = (each for each in response.cookies if not _ANYBODY.search(each))
    name = next((each for each in names if _shown(each)), None)
    return f'response.cookies."{name}"' if name else None


def _error(goes: SplitResult) -> str | None:
    """Return what names an error in a redirect's target, None without one."""
    for name, value in _parameters(goes):
        word = value.strip().lower()
        bare = name.partition("[")[0]
        if _ERROR_PARAMETER.fullmatch(bare) and word not in _NO_ERROR:
            return f"{bare[:40]}="
        if name.lower() in _STATE and judge_json({name: word})[0] is Ruling.REFUSED:
            return f"{name}="
        if f"{name.lower()}={word}" in _NO_SUCCESS:
            return f"{name}="
        if name.lower() in _SENTENCE and _sentence(word) is Ruling.REFUSED:
            return f"{name}="
    path = _place(goes).path
    if _ERROR_PAGE.fullmatch(path):
        return path
    last = path.rpartition("/")[2]
    return last if _ERROR_PATH.search(last) and _shown(last) else None


def _parameters(url: SplitResult) -> list[tuple[str, str]]:
    """Return the parameters of a query, and those of a fragment, as OAuth has them."""
    try:
        return [
            pair
            for part in (url.query, url.fragment)
            for pair in parse_qsl(part, keep_blank_values=True, max_num_fields=100)
        ]
    except ValueError:
        return []


def _names(url: SplitResult) -> set[str]:
    given = parse_qsl(url.query[:_TEXT_START], keep_blank_values=True)
    return {name for name, _ in given if re.fullmatch(r"[\w.-]{1,40}", name)}


class _Place(NamedTuple):
    """A page, as far as sites compare pages."""

    host: str
    path: str


def _place(url: SplitResult) -> _Place:
    """Return where a URL leads; ValueError for a host that is none."""
    path = url.path
    if ";" in path or "%" in path:
        parts = (unquote(part.partition(";")[0]) for part in path.split("/"))
        path = "/".join(parts)
    path = path.rstrip("/").casefold() or "/"
    return _Place((url.hostname or "").removeprefix("www."), path)


def _by_json(asked: Asked, response: Answered) -> Verdict | None:
    value = unwrapped(response.json)
    if value is None:
        return None
    if isinstance(value, dict) and (verdict := _by_target(asked, response, value)):
        return verdict
    outcome, name = judge_json(value, asked.names)
    if outcome is Ruling.UNDECIDED and response.status not in _CLEAR:
        return Verdict(outcome, "JSON that does not say whether", _hint(value))
    if outcome is Ruling.UNDECIDED:
        return Verdict(Ruling.ACCEPTED, f"HTTP {response.status}")
    by = f": {_shown(name)}" if _shown(name) else ""
    return Verdict(outcome, f"JSON that says it {_SAYS[outcome]}{by}")


def _by_target(
    asked: Asked, response: Answered, value: Mapping[str, Any]
) -> Verdict | None:
    """Judge JSON by the page that it sends to, where that says more than the rest."""
    target = next((value[key] for key in _JSON_REDIRECTS if key in value), None)
    if not isinstance(target, str):
        return None
    verdict = _of_redirect(asked, response, target)
    # SvelteKit sends this in place of a Location, Auth.js the url of its error page.
    follows = value.get("type") == REDIRECT or verdict.reason.startswith(_TO_ERROR)
    return verdict if follows else None


_SAYS: Final = {Ruling.ACCEPTED: "is accepted", Ruling.REFUSED: "is refused"}


def _shown(path: str) -> str:
    """Return the names of a path that are fit to be shown: none that may be a value."""
    plain = re.fullmatch(r"[A-Za-z_][\w-]{0,40}(?:\.[A-Za-z_][\w-]{0,40})*", path)
    return path if plain else ""


def _hint(value: Any) -> str | None:
    """Return a ``when`` for JSON like this: its first name that could tell."""
    if not isinstance(value, dict):
        return None
    name = next((key for key in value if _shown(key)), None)
    if name is None:
        return None
    number = value[name]
    plain = isinstance(number, int) and not isinstance(number, bool)
    test = f" == `{number}`" if plain and abs(number) < 1000 else ""
    return f'response.json."{name}"{test}'


def _by_body(response: Answered) -> Verdict:
    if response.status in _CLEAR:
        return Verdict(Ruling.ACCEPTED, f"HTTP {response.status}")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    start = (response.body or b"")[:_TEXT_START].strip()
    if kind.endswith("html") or start[:1] == b"<":
        why = "an HTML page: it may be the form again"
        return Verdict(Ruling.UNDECIDED, why, _evidence(response) or _SEE_OTHER)
    if response.unreadable:
        return Verdict(Ruling.UNDECIDED, "a body that could not be read")
    if _is_empty(response, kind):
        return Verdict(Ruling.ACCEPTED, "an empty response")
    if kind in {"", "text/plain"} and start:
        outcome, _ = judge_text(start.decode("utf-8", "replace"))
        if outcome is not Ruling.UNDECIDED:
            return Verdict(outcome, f"a text that says it {_SAYS[outcome]}")
    why = "a body that is neither JSON nor empty"
    when = _NEXT if kind == "text/x-component" else _evidence(response)
    return Verdict(Ruling.UNDECIDED, why, when)


def _is_empty(response: Answered, kind: str) -> bool:
    if response.body is not None:
        return not response.body.strip()
    return not kind or response.headers.get("content-length") == "0"
