"""What a JSON answer to a sign-up says: accepted, refused, or nothing of either.

Frameworks answer a refused sign-up with 200 in many shapes. What they share is kept
here as words of keys and values; keys are compared by their letters alone
(``is_success``, ``isSuccess``). The shapes are in ``tests/unit/test_success.py``, each
with the framework or service that sends it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from itertools import islice
from typing import Any, Final


class Ruling(StrEnum):
    """What a response says about a sign-up."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNDECIDED = "undecided"


_DEPTH: Final = 6
"""Envelopes inside each other: tRPC has four."""

_ITEMS: Final = 50
"""Items of a list, keys of an object, and objects that are looked at: few say it."""

_NODES: Final = 1000
"""Values of one key that are looked at."""

_LONGEST: Final = 2000
"""Characters of a sentence that are looked at."""

_FLAGS: Final = frozenset(
    {
        *("success", "issuccess", "succeeded", "successful", "issuccessful"),
        *("successfull", "ok", "isok", "valid", "isvalid", "validated", "accepted"),
        *("registered", "signedup", "created", "iscreated", "isnew", "newuser"),
        *("isnewuser", "isnewaccount", "isnewmember", "isnewcustomer", "firstseen"),
        *("usercreated", "accountcreated", "creatednewuser", "creatednewrecipeuser"),
    }
)
"""True: accepted; false: refused."""

_FAULT_FLAGS: Final = frozenset(
    {
        *("failed", "failure", "isfailure", "fail", "iserror", "haserror"),
        *("haserrors", "isfailed", "rejected", "refused", "invalid", "isinvalid"),
        *("exists", "alreadyexists", "userexists", "emailexists", "accountexists"),
        *("taken", "istaken", "emailtaken", "usernametaken", "duplicate"),
        *("isduplicate", "alreadyregistered", "alreadysubscribed", "existinguser"),
        *("isexistinguser", "needconfirmation"),
    }
)

_FAULTS: Final = re.compile(
    r"(?!no).*errors?|err|.*exceptions?|.*violations?|invalidfields?|faults?|error(?:code|"
    r"message|messages|msg|text|type|name|description|details?|s?info|list|map|data)|"
    r"errcode|errno|errmsg|keypattern|captcharequired|requirescaptcha|validationmessages?|issues|problems|failures|fieldmessages"
)
"""Keys under which there is something only if it went wrong."""

_NO_FAULTS: Final = frozenset(
    {
        *("", "0", "00", "000", "0000", "00000", "200", "no", "none", "null", "nil"),
        *("ok", "false", "success", "noerror", "undefined", "成功", "操作成功"),
    }
)

_STATES: Final = frozenset(
    {
        *("status", "state", "result", "outcome", "type", "kind", "statuscode"),
        *("httpstatus", "httpstatuscode", "code", "responsecode", "rescode"),
        *("resultcode", "respcode", "returncode", "ret", "retcode", "statustext"),
        *("statusmessage", "typename", "level", "severity", "messagetype", "msgtype"),
        *("alerttype", "icon", "variant", "category", "statuskey"),
    }
)

_BAD_STATES: Final = re.compile(
    r".*err(?:or)?s?|.*fail(?:ed|ure|s)?|.*invalid.*|.*exists|.*taken|.*duplicate.*|"
    r"rejected|refused|denied|.*conflict|.*badrequest|unauthorized|forbidden|"
    r"unprocessable.*|n?ko|nok|notok|spam|aborted|.*missing.*|abandoned|expired|"
    r"validation|danger|destructive|critical|.*already.*|.*inuse|.*notallowed|"
    r".*exception|blocked|acceptancemissing|throttled|toomanyrequests|.*problem"
)
_GOOD_STATES: Final = re.compile(
    r"success(?:ful(?:ly)?)?|succeeded|ok|okay|created|complete[d]?|done|registered|"
    r"accepted|subscribed|mailsent|signedup|confirmed|(?!un|not).*success"
)

_ENVELOPES: Final = frozenset(
    {
        *("data", "result", "results", "response", "payload", "body", "json", "meta"),
        *("content", "d", "output", "value", "return", "returnvalue", "props"),
        *("flash", "form", "actiondata", "action", "state", "status", "detail"),
        *("details", "attributes", "fields", "message", "messages", "notification"),
        *("notifications", "alert", "alerts", "toast", "notice", "ui"),
    }
)
"""Keys whose value may say the same, one level down."""

_TEXTS: Final = frozenset(
    {
        *("message", "msg", "messages", "detail", "details", "description", "title"),
        *("text", "info", "reason", "notice", "alert", "hint", "html", "timestamp"),
        *("path", "instance", "traceid", "requestid", "lang", "locale"),
    }
)
"""Keys whose values are for people, or about the call."""

_TAKEN: Final = re.compile(
    r"\b(?:already|exists?|taken|in use|duplicate)\b", re.IGNORECASE
)
_BAD_WORDS: Final = re.compile(
    r"\b(?:invalid|not valid|fail(?:ed|ure)?|errors?|incorrect|wrong|cannot|can't|"
    r"could not|couldn't|unable|denied|forbidden|not|disabled|blocked|expired|"
    r"too (?:many|short|long|weak|common)|try again|mismatch|unauthori[sz]ed|rejected|"
    r"sorry|oops|unsuccessful)\b",
    re.IGNORECASE,
)
_WEAK_WORDS: Final = re.compile(
    r"\b(?:required|missing|must|please|don't|doesn't)\b", re.IGNORECASE
)
"""A refusal has them, and so does a welcome that asks to verify the address."""

_GOOD_WORDS: Final = re.compile(
    r"\b(?:ok|okay|success(?:ful|fully)?|created|registered|welcome|thanks?|done|"
    r"signed up|check (?:your|the|e-?mail|inbox)|verif(?:y|ication)|sent|complete[d]?|"
    r"confirm(?:ation|ed)?|"
    r"true|subscribed|accepted|activated?|congratulations)\b",
    re.IGNORECASE,
)

_PAGE: Final = frozenset({"component", "props"})
"""Inertia's answer that draws a page: as little said as with HTML."""

_LETTERS: Final = re.compile(r"[^a-z]")
_NUMBER: Final = re.compile(r"-?[0-9]{1,6}")

Said = tuple[Ruling, str]
"""An outcome and where it stands, by names alone."""

_NOTHING: Final[Said] = (Ruling.UNDECIDED, "")


def judge_json(value: Any, sent: Collection[str] = ()) -> Said:
    """Judge a JSON answer; ``sent`` are the names of the request's own fields.

    Returns the outcome and the key that says so ("" if none does).
    """
    if isinstance(value, list):
        return _of_all([judge_json(each, sent) for each in value[:_ITEMS]])
    return _of_object(value, sent) if isinstance(value, dict) else _scalar(value)


def _of_object(value: Mapping[str, Any], sent: Collection[str]) -> Said:
    if not value:
        return Ruling.ACCEPTED, ""
    said = [*_signs(value)]
    for outcome in (Ruling.REFUSED, Ruling.ACCEPTED):
        for each in said:
            if each[0] is outcome:
                return each
    if _are_field_errors(value, sent):
        return Ruling.REFUSED, next(iter(value))
    if value.keys() >= _PAGE or _is_null(value.get("data", value)):
        return _NOTHING
    return _by_content(_opened(value))


def judge_text(text: str) -> Said:
    """Judge a sentence for people; what has no known word says nothing."""
    text = text[:_LONGEST].replace("_", " ")
    if _is_markup(text):
        return _NOTHING
    if _TAKEN.search(text):
        return Ruling.REFUSED, ""
    good, bad = _GOOD_WORDS.search(text), _BAD_WORDS.search(text)
    if good:
        return _NOTHING if bad else (Ruling.ACCEPTED, "")
    return (Ruling.REFUSED, "") if bad or _WEAK_WORDS.search(text) else _NOTHING


def _is_markup(value: Any) -> bool:
    """Whether a text is a piece of a page: as little said as with HTML."""
    return isinstance(value, str) and value.lstrip()[:1] == "<"


def _of_all(said: list[Said]) -> Said:
    """Judge a batch: what its parts say alike; an empty one says nothing."""
    outcomes = {outcome for outcome, _ in said}
    return said[0] if len(outcomes) == 1 else _NOTHING


def _scalar(value: Any) -> Said:
    if isinstance(value, str):
        return judge_text(value)
    if value is True or (value is not False and isinstance(value, int) and value > 0):
        return Ruling.ACCEPTED, ""
    return (Ruling.REFUSED, "") if value is False else _NOTHING


def _signs(value: Mapping[str, Any]) -> Iterator[Said]:
    """Return what each key says, and those of envelopes within, the outer first."""
    waiting: deque[tuple[str, int, Mapping[str, Any]]] = deque([("", 0, value)])
    for _ in range(_ITEMS):
        if not waiting:
            return
        where, depth, known = waiting.popleft()
        opens = len(known) == 1 or where == "data"
        for name, inner in islice(known.items(), _ITEMS):
            key, path = _plain(name), f"{where}.{name}" if where else name
            yield from _sign(key, inner, path)
            if depth < _DEPTH and (opens or key in _ENVELOPES):
                items = inner[:_ITEMS] if isinstance(inner, list) else [inner]
                waiting += [(path, depth + 1, e) for e in items if isinstance(e, dict)]


def _sign(key: str, inner: Any, path: str) -> Iterator[Said]:
    """Return what a key and its value say: at most one thing."""
    user = inner if isinstance(inner, dict) else {}
    if (key == "identities" and inner == []) or user.get("identities") == []:
        yield Ruling.REFUSED, path  # Supabase's answer for a known address
    elif key in _FLAGS or key in _FAULT_FLAGS:
        flag = _flag(inner)
        if flag is not None:
            good = flag is (key in _FLAGS)
            # Valid is what was typed; whether there is an account is not said.
            if not good or "valid" not in key:
                yield (Ruling.ACCEPTED if good else Ruling.REFUSED), path
    elif _FAULTS.fullmatch(key):
        if _has_content(inner):
            yield Ruling.REFUSED, path
    elif key in _STATES and (outcome := _state(inner)) is not None:
        yield outcome, path
    elif key in {"name", "classname"} and _is_error_class(inner):
        yield Ruling.REFUSED, path


def _is_error_class(value: Any) -> bool:
    """Whether a name is that of an error, as ORMs of JavaScript write theirs."""
    return isinstance(value, str) and _ERROR_CLASS.fullmatch(value[:100]) is not None


_ERROR_CLASS: Final = re.compile(r"[A-Z]\w*(?:Error|Exception)")


def _flag(value: Any) -> bool | None:
    """Read a flag; None for a value that is not one."""
    if isinstance(value, str):
        return _FLAG_WORDS.get(value.strip().lower())
    return bool(value) if isinstance(value, int) else None


_FLAG_WORDS: Final = {
    **dict.fromkeys(("true", "1", "yes", "ok"), True),
    **dict.fromkeys(("false", "0", "no", ""), False),
}


def _state(value: Any) -> Ruling | None:
    """Read a status in words, or a number as of HTTP."""
    if isinstance(value, bool):
        return Ruling.ACCEPTED if value else Ruling.REFUSED
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        word = _plain(value)
        if _BAD_STATES.fullmatch(word):
            return Ruling.REFUSED
        return Ruling.ACCEPTED if _GOOD_STATES.fullmatch(word) else None
    if not isinstance(value, str | int):
        return None
    number = int(value)
    if number < 0 or 400 <= number < 600 or 40_000 <= number < 60_000:
        return Ruling.REFUSED
    return Ruling.ACCEPTED if 200 <= number < 300 else None


def _has_content(value: Any) -> bool:
    """Whether a value names a fault: some text, number or true, at any depth."""
    return any(map(_is_content, _leaves(value)))


def _is_content(value: Any) -> bool:
    if isinstance(value, str):
        return _LETTERS_DIGITS.sub("", value[:64].lower()) not in _NO_FAULTS
    return bool(value)


_LETTERS_DIGITS: Final = re.compile(r"[\s\"'._-]+")


def _plain(name: str) -> str:
    return _LETTERS.sub("", name[:64].lower())


def _are_field_errors(value: Mapping[str, Any], sent: Collection[str]) -> bool:
    """Whether an object has nothing but complaints under the names of the form."""
    names = {name.lower() for name in sent} | {"__all__", "non_field_errors", "base"}
    return all(
        name.lower() in names and _are_complaints(each) for name, each in value.items()
    )


def _are_complaints(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(each, str) or (isinstance(each, dict) and "message" in each)
            for each in value
        )
    )


def _is_null(data: Any) -> bool:
    """Whether GraphQL's ``data`` holds nothing: null, or null for each field."""
    return data is None or (
        isinstance(data, dict) and all(each is None for each in data.values())
    )


def _opened(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is inside envelopes that hold one object and nothing else."""
    for _ in range(_DEPTH):
        inner = [each for name, each in value.items() if name != "extensions"]
        if len(inner) != 1 or not isinstance(inner[0], dict) or not inner[0]:
            break
        value = inner[0]
    return value


def _by_content(value: Mapping[str, Any]) -> Said:
    """Judge an object without any sign: a user, say, or a sentence."""
    texts: list[str] = []
    if "command" in value:
        return _NOTHING  # Drupal's and others': what a page's script is to do
    for name, inner in value.items():
        key, is_scalar = _plain(name), not isinstance(inner, dict | list)
        if key in _TEXTS or (key in _STATES and is_scalar) or "valid" in key:
            leaves = islice(_leaves(inner), _ITEMS)
            texts += [each for each in leaves if isinstance(each, str)]
        elif _has_content(inner) and not all(map(_is_markup, _leaves(inner))):
            return Ruling.ACCEPTED, name
    texts = [each for each in texts if not _is_markup(each)]
    return judge_text("\n".join(texts)) if texts else _NOTHING


def _leaves(value: Any) -> Iterator[Any]:
    """Return what is neither object nor list, wherever it is, as far as it is read."""
    waiting = deque([value])
    for _ in range(_NODES):
        if not waiting:
            return
        one = waiting.popleft()
        if isinstance(one, dict | list):
            inner = one.values() if isinstance(one, dict) else one
            waiting.extend(islice(inner, _NODES))
        else:
            yield one
