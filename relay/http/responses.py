"""Answers of the relay's own endpoints: one JSON shape for every error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict

from relay.core import jsontext
from relay.core.dub.errors import error_body
from relay.observability.logging import get_logger

log = get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

RETRY_AFTER_S: Final = "5"
"""What a caller is asked to wait when the database refused. In seconds, as RFC
9110 10.2.3 has it; group commit makes room again within one."""

_HEADERS: Final = CIMultiDict(
    {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"}
)

_CODES: Final[Mapping[int, str]] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "bad_request",
    408: "bad_request",
    409: "conflict",
    413: "bad_request",
    415: "bad_request",
    422: "unprocessable_entity",
    429: "rate_limit_exceeded",
    500: "internal_server_error",
    502: "internal_server_error",
    503: "internal_server_error",
    504: "internal_server_error",
}
"""Dub has no code of its own for 405, 408, 413, 415, 502, 503 and 504."""


class RefusedError(Exception):
    """A request that is answered with an error; the message is for the caller."""

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


def answer(body: Mapping[str, Any], status: int = 200) -> web.Response:
    """Return a JSON answer that nobody may cache."""
    return web.Response(body=jsontext.encode(body), status=status, headers=_HEADERS)


def refusal(refused: RefusedError) -> web.Response:
    """Return an error in Dub's shape."""
    response = answer(
        error_body(_CODES[refused.status], refused.message), refused.status
    )
    response.headers.update(refused.headers)
    return response


def speaking_json(handler: Handler) -> Handler:
    """Wrap a handler so that an error is answered in Dub's shape."""

    async def wrapped(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the border: logged, answered
            return error_response(error, request.path)

    return wrapped


def error_response(error: Exception, path: str) -> web.Response:
    """Return the answer that says what went wrong at a path.

    Raises the error again if it is an answer by itself, a redirect say.
    """
    if isinstance(error, RefusedError):
        return refusal(error)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return refusal(RefusedError(413, "The body may have 1 MiB at most."))
    if isinstance(error, web.HTTPException):
        if error.status not in _CODES:
            raise error
        return refusal(RefusedError(error.status, error.reason))
    log.error("request.failed", error=type(error).__name__, path=path)
    return refusal(RefusedError(500, "The relay failed to handle this request."))


def try_again(message: str) -> RefusedError:
    """Return the refusal of what could not be stored: 503 with Retry-After."""
    return RefusedError(503, message, {"Retry-After": RETRY_AFTER_S})


def read_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; refuse other JSON with 422, anything else with 400."""
    document = read_json(body)
    if not isinstance(document, dict):
        raise RefusedError(422, "The body must be a JSON object.")
    return document


def read_json(body: bytes) -> Any:
    """Parse strict UTF-8 JSON; refuse anything else with 400."""
    try:
        return jsontext.decode(body)
    except UnicodeDecodeError:
        raise RefusedError(400, "The body is not UTF-8.") from None
    except ValueError:
        raise RefusedError(400, "The body is not valid JSON.") from None
