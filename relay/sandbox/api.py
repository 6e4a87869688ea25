"""The API's endpoints as functions from a request to a reply; no sockets.

Server routes take the workspace's key, browser routes the publishable key or
none. Every route keeps Dub's order of checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final

from relay.core.dub import errors
from relay.core.dub.browser_calls import validate_client
from relay.core.dub.track_lead import (
    InvalidFieldError,
    LeadFields,
    validate,
)
from relay.core.dub.track_sale import (
    sale_fields,
    validate_sale,
)
from relay.core.signing import BadSignatureError, verify_call
from relay.sandbox.dub import NOTHING, Around, Dub, LeadAnswer, customer_json
from relay.sandbox.faults import Conditions, Options
from relay.sandbox.model import (
    Click,
    Customer,
    RecordedLead,
    RecordedSale,
    RefusalError,
)
from relay.sandbox.state import api_customer_json, event_json
from relay.sandbox.wire import (
    PUBLISHABLE_RATE,
    Circuit,
    Incoming,
    Reply,
    refused,
    require_hostname,
    require_plan,
    with_cors,
)

EVENTS_MS: Final = 24 * 3600 * 1000
"""How far ``GET /events`` looks back where no ``start`` is given."""

_DIRECT_LEAD: Final = "Direct sale tracking lead event"
"""The event that Dub gives to the lead that a direct sale makes."""


def track_sale(dub: Dub, body: object, around: Around = NOTHING) -> Mapping[str, Any]:
    """Record a sale from a parsed body; raise RefusalError.

    A sale of nobody known answers 200 with nulls and counts nothing. Only
    ``invoiceId`` makes a repeat harmless. No currency is converted here (Dub
    answers in USD).
    """
    sale = _checked_sale(body)
    invoice = sale["invoiceId"]
    if invoice is not None and invoice in dub.invoices:
        return dub.invoices[invoice]
    customer = _customer(dub, sale, around)
    if customer is None or sale["amount"] == 0:
        return {"eventName": sale["eventName"], "customer": None, "sale": None}
    answer = _record(dub, customer, sale)
    if invoice is not None:
        dub.invoices[invoice] = answer
    return answer


def _record(dub: Dub, customer: Customer, sale: dict[str, Any]) -> dict[str, Any]:
    now = dub.clock()
    dub.sales.append(
        RecordedSale(
            id=dub.new_id(),
            customer=customer,
            event_name=sale["eventName"],
            click=customer.click,
            amount=sale["amount"],
            currency=sale["currency"],
            processor=sale["paymentProcessor"],
            invoice_id=sale["invoiceId"],
            metadata=sale["metadata"],
            at=now,
        )
    )
    customer.sales += 1
    customer.sale_amount += sale["amount"]
    customer.first_sale_at = customer.first_sale_at or now
    dub.changed()
    return {
        "eventName": sale["eventName"],
        "customer": {"id": customer.id, **customer_json(customer)},
        "sale": {
            key: sale[key]
            for key in (
                "amount",
                "currency",
                "paymentProcessor",
                "invoiceId",
                "metadata",
            )
        },
    }


def _customer(dub: Dub, sale: dict[str, Any], around: Around) -> Customer | None:
    """Find the customer by its lead, or make one from a direct sale's click."""
    customer = dub.customers.get(sale["customerExternalId"])
    if customer is not None:
        _require_lead(dub, sale)
        return customer
    if not sale["clickId"]:
        return None
    click = dub.find_click(sale["clickId"], around.click_delay)
    return _direct(dub, click, sale, around)


def _direct(dub: Dub, click: Click, sale: dict[str, Any], around: Around) -> Customer:
    customer = dub.add_customer(
        click,
        sale["customerExternalId"],
        name=sale["customerName"],
        email=sale["customerEmail"],
        avatar=sale["customerAvatar"],
    )
    dub.add_lead(
        RecordedLead(
            id=dub.new_id(),
            customer=customer,
            event_name=sale["leadEventName"] or _DIRECT_LEAD,
            click=click,
            quantity=1,
            metadata=None,
            at=dub.clock(),
            signed=around.signed,
            visible_at=dub.clock(),
        )
    )
    return customer


def _require_lead(dub: Dub, sale: dict[str, Any]) -> None:
    external_id, event = sale["customerExternalId"], sale["leadEventName"]
    now = dub.clock()
    for lead in dub.leads:
        mine = lead.customer.external_id == external_id
        if mine and event in (None, lead.event_name) and lead.visible_at <= now:
            return
    raise RefusalError(
        "not_found",
        f"Lead event not found for externalId: {external_id} "
        f"and leadEventName: {event or 'null'}",
    )


def _checked_sale(body: object) -> dict[str, Any]:
    """Check a sale's fields; defaults filled in."""
    try:
        fields = validate_sale(body)
    except InvalidFieldError as error:
        raise RefusalError(error.issue.error_code, error.issue.text) from None
    assert fields.sale is not None  # noqa: S101 - what validate_sale promises
    return {
        **sale_fields(fields.sale),
        "leadEventName": fields.sale.lead_event_name,
        "customerExternalId": fields.customer_external_id,
        "eventName": fields.event_name,
        "metadata": fields.metadata,
        "clickId": fields.click_id,
        "customerName": fields.customer_name,
        "customerEmail": fields.customer_email,
        "customerAvatar": fields.customer_avatar,
    }


PAGE_SIZE: Final = 100
"""Dub's largest page of a listing."""

CUSTOMER_NOT_FOUND: Final = (
    "Customer not found. Make sure you're using the correct customer ID "
    "(e.g. `cus_3TagGjzRzmsFJdH8od2BNCsc`) or external ID "
    "(has to be prefixed with `ext_`)."
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

    def customers(self, call: Incoming, conditions: Conditions) -> Reply:
        """``GET /customers``, by externalId, email or search."""
        return self._server(call, conditions, self._list_customers)

    def events(self, call: Incoming, conditions: Conditions) -> Reply:
        """``GET /events``: leads and sales, by time, customer and page."""
        return self._server(call, conditions, self._list_events)

    def customer(self, call: Incoming, conditions: Conditions) -> Reply:
        """``GET /customers/{id}`` and ``GET /customers/ext_{externalId}``."""
        return self._server(call, conditions, self._one_customer)

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
        return self._metered("server", call, conditions, admitted)

    def _metered(
        self, meter: str, call: Incoming, conditions: Conditions, work: Work
    ) -> Reply:
        """Hold a call to the rate, then do the work; errors carry the rate."""
        rate = conditions.rate
        if rate is None and meter == "publishable":
            rate = PUBLISHABLE_RATE
        passed, allowance = self.circuit.count(meter, call.now, rate)
        if not passed:
            return refused(_too_many(), allowance.headers())
        try:
            return work(call, conditions)
        except RefusalError as refusal:
            return refused(refusal, allowance.headers())

    def rate_headers(self) -> dict[str, str]:
        """Return the rate headers as they stand, without counting a call."""
        return self.circuit.standing("server", self.dub.clock()).headers()

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
        return Reply(200, answer.body, lead=answer.lead, note=_told(answer))

    def _sale(self, call: Incoming, conditions: Conditions) -> Reply:
        around = self._around(call, conditions)
        return Reply(200, track_sale(self.dub, call.parsed, around))

    def _around(self, call: Incoming, conditions: Conditions) -> Around:
        return Around(
            signed=self.signature(call).word,
            click_delay=round(conditions.click_delay * 1000),
            lead_delay=round(conditions.lead_delay * 1000),
            crash=conditions.crash,
        )

    def _list_customers(self, call: Incoming, _: Conditions) -> Reply:
        external_id, email = call.query.get("externalId"), call.query.get("email")
        search = call.query.get("search", "").lower()
        found = (
            customer
            for customer in reversed(self.dub.customers.values())
            if external_id in (None, customer.external_id)
            and email in (None, customer.email)
            and search in f"{customer.name} {customer.email}".lower()
        )
        page = [api_customer_json(it) for it in islice(found, PAGE_SIZE)]
        return Reply(200, page)

    def _list_events(self, call: Incoming, conditions: Conditions) -> Reply:
        if not conditions.analytics:
            raise RefusalError("forbidden", errors.NO_ANALYTICS)
        kind = call.query.get("event", "clicks")
        begin, end = (_moment(call.query.get(name)) for name in ("start", "end"))
        now = self.dub.clock()
        begin = now - EVENTS_MS if begin is None else begin
        wanted = call.query.get("customerId")
        lag = round(conditions.events_lag * 1000)
        found = [
            event_json(self.dub, event)
            for event in self.dub.events(kind)
            if begin <= event.at <= (now if end is None else end)
            and event.at + lag <= now
            and wanted in (None, event.customer.id)
        ]
        if call.query.get("sortOrder", "desc") == "desc":
            found.reverse()
        limit = min(int(call.query.get("limit", "100")), 1000)
        first = (int(call.query.get("page", "1")) - 1) * limit
        return Reply(200, found[first : first + limit])

    def _one_customer(self, call: Incoming, _: Conditions) -> Reply:
        found = self._find_customer(call.path.removeprefix("/customers/"))
        if found is None:
            raise RefusalError("not_found", CUSTOMER_NOT_FOUND)
        return Reply(200, api_customer_json(found))

    def _find_customer(self, wanted: str) -> Customer | None:
        customers = self.dub.customers
        if wanted.startswith("ext_"):
            return customers.get(wanted.removeprefix("ext_"))
        return next((it for it in customers.values() if it.id == wanted), None)

    # Browser routes with a publishable key

    def track_lead_client(self, call: Incoming, conditions: Conditions) -> Reply:
        """``POST /track/lead/client``."""
        return self._publishable(call, conditions, self._client_lead)

    def track_sale_client(self, call: Incoming, conditions: Conditions) -> Reply:
        """``POST /track/sale/client``."""
        return self._publishable(call, conditions, self._sale)

    def _publishable(self, call: Incoming, conditions: Conditions, work: Work) -> Reply:
        def admitted(call: Incoming, conditions: Conditions) -> Reply:
            require_plan(conditions)
            self.require_hostname(call)
            return work(call, conditions)

        try:
            self.circuit.identify_publishable(call.headers.get("Authorization"))
        except RefusalError as refusal:
            return with_cors(refused(refusal))
        return with_cors(self._metered("publishable", call, conditions, admitted))

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


def _moment(value: str | None) -> int | None:
    """Read a time of a query as epoch ms; raise RefusalError for what is none."""
    if value is None:
        return None
    try:
        return round(datetime.fromisoformat(value).timestamp() * 1000)
    except ValueError:
        text = f"custom: start: Invalid datetime: {value}"
        raise RefusalError(errors.UNPROCESSABLE, text) from None


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
