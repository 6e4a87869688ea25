"""``GET /customers`` and ``GET /events``: what Dub shows of what it keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

from relay.core.dub import errors
from relay.sandbox.api import Api
from relay.sandbox.faults import Conditions
from relay.sandbox.model import Customer, Event, RefusalError
from relay.sandbox.state import api_customer_json, event_json, expanded_customer_json
from relay.sandbox.wire import Incoming, Reply

EVENTS_MS: Final = 24 * 3600 * 1000
"""How far ``GET /events`` looks back where no ``start`` is given."""

_CUSTOMERS: Final = 100
"""Customers on a page, at most and by default."""

_EVENTS: Final = (100, 1000)
"""Events on a page by default, and at most."""

_KINDS: Final = ("clicks", "leads", "sales")
_ORDERS: Final = ("asc", "desc")

_METADATA: Final = re.compile(r"metadata\[['\"]([\w.]+)['\"]\]\s*(:|=|!=)\s*(.+)")
"""What ``query`` asks of metadata; Dub also compares numbers, the sandbox does not."""

CUSTOMER_NOT_FOUND: Final = (
    "Customer not found. Make sure you're using the correct customer ID "
    "(e.g. `cus_3TagGjzRzmsFJdH8od2BNCsc`) or external ID "
    "(has to be prefixed with `ext_`)."
)


class ListingsApi:
    """The three endpoints over one Dub."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._dub = api.dub

    def customers(self, call: Incoming, conditions: Conditions) -> Reply:
        """``GET /customers``, by externalId, email, search or link, newest first."""
        return self._api.served(call, conditions, self._list_customers)

    def customer(self, call: Incoming, conditions: Conditions) -> Reply:
        """``GET /customers/{id}`` and ``GET /customers/ext_{externalId}``."""
        return self._api.served(call, conditions, self._one_customer)

    def events(self, call: Incoming, conditions: Conditions) -> Reply:
        """``GET /events``: leads and sales, by time, customer, link and page."""
        return self._api.served(call, conditions, self._list_events)

    def _list_customers(self, call: Incoming, _: Conditions) -> Reply:
        size = _number(call, "pageSize", _CUSTOMERS, _CUSTOMERS)
        first = (_number(call, "page", 1) - 1) * size
        newest = reversed(self._dub.customers.values())
        found = (it for it in newest if self._is_listed(it, call.query))
        page = islice(found, first, first + size)
        return Reply(200, [self._shown(call, customer) for customer in page])

    def _is_listed(self, customer: Customer, query: Mapping[str, str]) -> bool:
        """Whether a customer fits: of e-mail, id and search the first counts alone."""
        link = self._dub.links[customer.click.link_key]
        if query.get("linkId") not in (None, link.id):
            return False
        if email := query.get("email"):
            return customer.email == email
        if external_id := query.get("externalId"):
            return customer.external_id == external_id
        search = query.get("search", "").lower()
        return search in f"{customer.name} {customer.email}".lower()

    def _one_customer(self, call: Incoming, _: Conditions) -> Reply:
        found = self._find_customer(call.path.removeprefix("/customers/"))
        if found is None:
            raise RefusalError("not_found", CUSTOMER_NOT_FOUND)
        return Reply(200, self._shown(call, found))

    def _shown(self, call: Incoming, customer: Customer) -> dict[str, Any]:
        if call.query.get("includeExpandedFields") == "true":
            return expanded_customer_json(self._dub, customer)
        return api_customer_json(customer)

    def _find_customer(self, wanted: str) -> Customer | None:
        customers = self._dub.customers
        if wanted.startswith("ext_"):
            return customers.get(wanted.removeprefix("ext_"))
        return next((it for it in customers.values() if it.id == wanted), None)

    def _list_events(self, call: Incoming, conditions: Conditions) -> Reply:
        if not conditions.analytics:
            raise RefusalError("forbidden", errors.NO_ANALYTICS)
        kind = _one_of(call, "event", _KINDS)
        newest_first = _one_of(call, "sortOrder", _ORDERS[::-1]) == "desc"
        size = _number(call, "limit", *_EVENTS)
        first = (_number(call, "page", 1) - 1) * size
        found = list(self._events(call, kind, round(conditions.events_lag * 1000)))
        page = (found[::-1] if newest_first else found)[first : first + size]
        # Dub looks its links up afterwards: a page may be shorter than the others.
        shown = [it for it in page if not self._dub.links[it.click.link_key].gone]
        return Reply(200, [event_json(self._dub, event) for event in shown])

    def _events(self, call: Incoming, kind: str, lag: int) -> Iterator[Event]:
        now = self._dub.clock()
        begin, end = (_moment(call, name) for name in ("start", "end"))
        begin = now - EVENTS_MS if begin is None else begin
        end = now if end is None else end
        for event in self._dub.events(kind):
            in_time = begin <= event.at <= end and event.at + lag <= now
            if in_time and self._is_wanted(event, call.query):
                yield event

    def _is_wanted(self, event: Event, query: Mapping[str, str]) -> bool:
        link = self._dub.links[event.click.link_key]
        return (
            query.get("customerId") in (None, event.customer.id)
            and _among(query.get("linkId"), link.id)
            and _among(query.get("partnerId"), link.partner_id)
            and _among(query.get("domain"), self._dub.domain)
            and query.get("key") in (None, link.key)
            and _has_metadata(query.get("query"), event.metadata or {})
        )


def _among(wanted: str | None, value: str | None) -> bool:
    """Read one of Dub's filters: ``a``, ``a,b``, and ``-a,b`` for all but these."""
    if not wanted:
        return True
    return (value in wanted.removeprefix("-").split(",")) != wanted.startswith("-")


def _has_metadata(query: str | None, metadata: Mapping[str, Any]) -> bool:
    asked = _METADATA.fullmatch(query or "")
    if asked is None:
        return True
    name, operator, value = asked.groups()
    return (str(metadata.get(name)) == value.strip("'\"`")) != (operator == "!=")


def _number(call: Incoming, name: str, default: int, most: int | None = None) -> int:
    """Read a page's number or size; raise RefusalError as Dub's schema does."""
    text = call.query.get(name, str(default))
    try:
        number = int(text)
    except ValueError:
        raise _invalid("invalid_type", name, f"{name} must be a number.") from None
    if number < 1:
        raise _invalid("too_small", name, f"{name} must be greater than 0.")
    if most is not None and number > most:
        raise _invalid("too_big", name, f"Max page size is {most}.")
    return number


def _one_of(call: Incoming, name: str, options: Sequence[str]) -> str:
    """Read a word of a query; the first option is the default."""
    value = call.query.get(name, options[0])
    if value not in options:
        known = "|".join(f'"{option}"' for option in options)
        text = f"Invalid option: expected one of {known}"
        raise _invalid("invalid_value", name, text)
    return value


def _moment(call: Incoming, name: str) -> int | None:
    """Read a time of a query as epoch ms; raise RefusalError for what is none."""
    value = call.query.get(name)
    if value is None:
        return None
    try:
        return round(datetime.fromisoformat(value).timestamp() * 1000)
    except ValueError:
        raise _invalid("custom", name, f"Invalid datetime: {value}") from None


def _invalid(code: str, name: str, text: str) -> RefusalError:
    return RefusalError(errors.UNPROCESSABLE, f"{code}: {name}: {text}")
