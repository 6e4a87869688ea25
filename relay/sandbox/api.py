"""The API's endpoints as functions from a request to a reply; no sockets.

Server routes take the workspace's key, browser routes the publishable key or
none. Every route keeps Dub's order of checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from relay.core.dub import errors
from relay.core.dub.browser_calls import key_of, malformed_key, validate_client
from relay.core.dub.track_lead import (
    InvalidFieldError,
    LeadFields,
    validate,
)
from relay.core.signing import BadSignatureError, verify_call
from relay.sandbox.dub import Around, Dub, LeadAnswer
from relay.sandbox.faults import Conditions, Options
from relay.sandbox.model import RefusalError
from relay.sandbox.sales import track_sale
from relay.sandbox.wire import (
    SERVER,
    Circuit,
    Incoming,
    Meter,
    Reply,
    refused,
    require_hostname,
    require_plan,
    with_cors,
)

Work = Callable[[Incoming, Conditions], Reply]


@dataclass(frozen=True, slots=True)
class Signature:
    """What the ``Relay-Signature`` of a call is worth, and the lead it names."""

    word: str
    lead_id: str | None = None


class Api:
    """The endpoints over one Dub.

    ``secrets`` are the relay's; without them a signature stays "unchecked".
    """

    def __init__(
        self, dub: Dub, circuit: Circuit, options: Options, secrets: Sequence[str]
    ) -> None:
        self.dub = dub
        self.circuit = circuit
        self.options = options
        self._secrets = tuple(secrets)

    def signature(self, call: Incoming) -> Signature:
        """Check the relay's signature on a call."""
        value = call.headers.get("Relay-Signature")
        if value is None:
            return Signature("no")
        if not self._secrets:
            return Signature("unchecked")
        try:
            lead_id = verify_call(self._secrets, value, call.body, call.now)
        except BadSignatureError:
            return Signature("invalid")
        return Signature("yes", lead_id)

    # Server routes

    def track_lead(self, call: Incoming, conditions: Conditions) -> Reply:
        """``POST /track/lead``."""
        return self._server(call, conditions, self._lead)

    def track_sale(self, call: Incoming, conditions: Conditions) -> Reply:
        """``POST /track/sale``."""
        return self._server(call, conditions, self._sale)

    def served(self, call: Incoming, conditions: Conditions, work: Work) -> Reply:
        """Do the work of another server route, behind the checks of all."""
        return self._server(call, conditions, work)

    def _server(self, call: Incoming, conditions: Conditions, work: Work) -> Reply:
        def admitted(call: Incoming, conditions: Conditions) -> Reply:
            self.circuit.admit(conditions)
            self._require_signature(call)
            return work(call, conditions)

        try:
            self.circuit.identify(call.headers.get("Authorization"), conditions)
        except RefusalError as refusal:
            return refused(refusal)
        return self._metered(SERVER, call, conditions, admitted)

    def _metered(
        self, key: str, call: Incoming, conditions: Conditions, work: Work
    ) -> Reply:
        """Hold a key's calls to the rate, then do the work; errors carry the rate."""
        meter = Meter.of(call.path, key)
        passed, allowance = self.circuit.count(meter, call.now, conditions.rate)
        if not passed:
            return refused(_too_many(), allowance.headers())
        try:
            reply = work(call, conditions)
            # A browser's route sends the rate with every answer.
            return (
                reply if key == SERVER else replace(reply, headers=allowance.headers())
            )
        except RefusalError as refusal:
            return refused(refusal, allowance.headers())

    def rate_headers(self) -> dict[str, str]:
        """Return the rate headers as they stand, without counting a call."""
        return self.circuit.standing(Meter(SERVER), self.dub.clock()).headers()

    def _require_signature(self, call: Incoming) -> None:
        if self.options.require_signature and self.signature(call).word != "yes":
            message = "This sandbox takes calls with a good Relay-Signature only."
            raise RefusalError("forbidden", message)

    def _lead(self, call: Incoming, conditions: Conditions) -> Reply:
        return self._track(call, conditions, _checked(call.parsed))

    def _track(
        self, call: Incoming, conditions: Conditions, fields: LeadFields
    ) -> Reply:
        answer = self.dub.track_lead(fields, self._around(call, conditions))
        recorded = () if answer.lead is None else (answer.lead,)
        return Reply(200, answer.body, recorded=recorded, note=_told(answer))

    def _sale(self, call: Incoming, conditions: Conditions) -> Reply:
        answer = track_sale(self.dub, call.parsed, self._around(call, conditions))
        return Reply(200, answer.body, recorded=answer.recorded)

    def _around(self, call: Incoming, conditions: Conditions) -> Around:
        return Around(
            signed=self.signature(call).word,
            click_delay=round(conditions.click_delay * 1000),
            lead_delay=round(conditions.lead_delay * 1000),
            crash=conditions.crash,
            avatar_fails=conditions.avatar_fails,
        )

    # Browser routes with a publishable key

    def track_lead_client(self, call: Incoming, conditions: Conditions) -> Reply:
        """``POST /track/lead/client``."""
        return self._publishable(call, conditions, self._client_lead)

    def track_sale_client(self, call: Incoming, conditions: Conditions) -> Reply:
        """``POST /track/sale/client``."""
        return self._publishable(call, conditions, self._sale)

    def _publishable(self, call: Incoming, conditions: Conditions, work: Work) -> Reply:
        authorization = call.headers.get("Authorization")
        if (problem := malformed_key(authorization)) is not None:
            return with_cors(refused(RefusalError(*problem)))
        key = key_of(authorization or "")

        def admitted(call: Incoming, conditions: Conditions) -> Reply:
            self.circuit.require_publishable(key)
            require_plan(conditions)
            # Read before the hostname is looked at: what is no JSON is told first.
            _ = call.parsed
            self.require_hostname(call)
            return work(call, conditions)

        return with_cors(self._metered(key, call, conditions, admitted))

    def require_hostname(self, call: Incoming) -> None:
        """Hold a browser's call to the allowed hostnames; raise RefusalError."""
        require_hostname(
            self.options.allowed_hostnames,
            call.headers.get("Referer"),
            call.headers.get("Origin"),
        )

    def _client_lead(self, call: Incoming, conditions: Conditions) -> Reply:
        fields = _checked(call.parsed, validate_client)
        return self._track(call, conditions, fields)


def _told(answer: LeadAnswer) -> str:
    """Say in the list of calls what an answer of 200 did."""
    if answer.body["link"] is None:
        return "link: null, nothing recorded"
    return "lead recorded" if answer.lead else "customer and click kept, no lead"


def _too_many() -> RefusalError:
    return RefusalError("rate_limit_exceeded", errors.TOO_MANY_REQUESTS)


def _checked(
    body: object, check: Callable[[object], LeadFields] = validate
) -> LeadFields:
    try:
        return check(body)
    except InvalidFieldError as error:
        issue = error.issue
        raise RefusalError(issue.error_code, issue.text) from None
