"""The state machine of a local Dub: what it keeps and how a lead is tracked.

No sockets and no clock in here: time and randomness are passed in, so that a
test can let seven days go by. The order of the checks is the real one's, since
the traps lie in it: the dedupe key is claimed before the click is looked up,
and whatever fails after that never gives it back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from relay.core.dub import errors
from relay.core.dub.track_lead import (
    LeadFields,
    fold_event,
)
from relay.core.leads import Mode
from relay.sandbox.model import (
    ALPHABET,
    Call,
    Click,
    Customer,
    Event,
    Link,
    RecordedLead,
    RecordedSale,
    RefusalError,
    internal_error,
    random_name,
)

DEDUPE_MS: Final = 7 * 24 * 3600 * 1000
"""Dub's dedupe key of a customer's event lives for seven days."""

SAME_CLICK_MS: Final = 3600 * 1000
"""One visitor (address and browser) on one link is one click for an hour."""

MAX_STORED_ID: Final = 191
"""Dub's database column; track/lead itself does not check the length."""

CALLS_KEPT: Final = 20_000
"""Calls kept for the tests and the page: enough for a load of some minutes."""


@dataclass(frozen=True, slots=True)
class Around:
    """What surrounds one call: its signature and the faults that hit it.

    ``click_delay`` and ``lead_delay`` (ms) say how long a click or a lead stays
    invisible; ``crash`` lets Dub fail just after it claimed the dedupe key;
    ``avatar_fails``: the avatar that the call brings cannot be fetched.
    """

    signed: str = "unchecked"
    click_delay: int = 0
    lead_delay: int = 0
    crash: bool = False
    avatar_fails: bool = False


NOTHING: Final = Around()


@dataclass(frozen=True, slots=True)
class LeadAnswer:
    """What track/lead answers, and the lead when one was recorded."""

    body: Mapping[str, Any]
    lead: RecordedLead | None = None


class Dub:
    """One workspace of a local Dub, in memory.

    ``clock`` gives epoch ms. ``domain`` is the short domain that its links
    name; ``changed`` is called after every change.
    """

    def __init__(
        self,
        links: Iterable[Link],
        *,
        clock: Callable[[], int],
        rng: Random,
        domain: str,
    ) -> None:
        self._first_links = tuple(links)
        self.links = {link.key: link for link in self._first_links}
        self.clock = clock
        self.rng = rng
        self.domain = domain
        self.changed: Callable[[], None] = lambda: None
        self.clicks: dict[str, Click] = {}
        self.customers: dict[str, Customer] = {}
        self.leads: list[RecordedLead] = []
        self.sales: list[RecordedSale] = []
        self.invoices: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self.calls: deque[Call] = deque(maxlen=CALLS_KEPT)
        self.phantoms = 0
        self._claims: dict[tuple[str, str], int] = {}
        self._recent: dict[tuple[str, str], tuple[str, int]] = {}

    def reset(self) -> None:
        """Forget everything, and have the links as they were at first."""
        self.links = {link.key: link for link in self._first_links}
        for kept in (self.clicks, self.customers, self.invoices):
            kept.clear()
        self.leads.clear()
        self.sales.clear()
        self.calls.clear()
        self._claims.clear()
        self._recent.clear()
        self.phantoms = 0
        self.changed()

    def new_id(self, length: int = 16) -> str:
        """Make an id as Dub's nanoid does; 16 characters is a click's."""
        return "".join(self.rng.choices(ALPHABET, k=length))

    def note(self, call: Call) -> None:
        """Keep a call for the page and the tests."""
        self.calls.append(call)
        self.changed()

    # Clicks

    def link_at(self, path: str) -> Link | None:
        """Find a link by its path or its key."""
        named = self.links.get(path)
        if named is not None:
            return named
        return next((link for link in self.links.values() if link.path == path), None)

    def click(
        self,
        link: Link,
        identity: str | None = None,
        *,
        click_id: str | None = None,
        referrer: str = "",
    ) -> Click:
        """Record a click; one identity's click within the hour is the same one.

        Without an identity, and for each new identity, the click is new. An id
        can be prescribed, as the short domain's own cookie does.
        """
        now = self.clock()
        seen = self._seen(link, identity, now)
        if seen is not None:
            return seen
        click = Click(click_id or self.new_id(), link.key, now, referrer)
        self.clicks[click.id] = click
        if identity is not None:
            self._recent[link.key, identity] = (click.id, now + SAME_CLICK_MS)
        self.changed()
        return click

    def _seen(self, link: Link, identity: str | None, now: int) -> Click | None:
        if identity is None:
            return None
        click_id, until = self._recent.get((link.key, identity), ("", 0))
        return self.clicks.get(click_id) if now < until else None

    def phantom(self) -> str:
        """Make a click id that was never recorded, as a bot's click gets."""
        self.phantoms += 1
        self.changed()
        return self.new_id()

    # Leads

    def track_lead(self, fields: LeadFields, around: Around = NOTHING) -> LeadAnswer:
        """Take a lead in Dub's own order of checks; raise RefusalError."""
        external_id = fields.customer_external_id
        known = self.customers.get(external_id)
        click_id = _chosen_click_id(fields, known)
        deferred = fields.mode is Mode.DEFERRED
        if not deferred and not self._claim(external_id, fields.event_name):
            return LeadAnswer(self._duplicate(click_id, fields, known))
        if around.crash:
            raise internal_error()
        click = self.find_click(click_id, around.click_delay)
        customer = known or self._create(click, fields)
        _forget_bad_avatar(customer, fields, fails=around.avatar_fails)
        link = self.links[click.link_key]
        body = self._body(click_id, link, customer_json(customer))
        lead = None if deferred else self._record(customer, click, fields, around)
        self.changed()
        return LeadAnswer(body, lead)

    def _claim(self, external_id: str, event: str) -> bool:
        """Claim the dedupe key; False while an earlier claim lives."""
        key = (external_id, fold_event(event))
        now = self.clock()
        if now < self._claims.get(key, 0):
            return False
        self._claims[key] = now + DEDUPE_MS
        return True

    def find_click(self, click_id: str, delay: int = 0, what: str = "lead") -> Click:
        """Look a click and its link up; each way to fail is a 404 of its own.

        ``what`` is what is not tracked then: a lead or a sale.
        """
        click = self.clicks.get(click_id)
        if click is None or self.clock() - click.at < delay:
            raise _not_found(errors.click_not_found(click_id))
        link = self.links[click.link_key]
        if link.gone:
            raise _not_found(errors.link_not_found(click_id))
        _require_link(link, f"clickId {click_id}", what)
        return click

    def require_customers_link(self, customer: Customer) -> None:
        """Hold a sale to the link of its customer's first click, as Dub does."""
        link = self.links[customer.click.link_key]
        if link.gone:
            raise _not_found(errors.customers_link_not_found(customer.id))
        _require_link(link, f"customer {customer.id}", "sale")

    def _create(self, click: Click, fields: LeadFields) -> Customer:
        if len(fields.customer_external_id) > MAX_STORED_ID:
            raise internal_error()
        return self.add_customer(
            click,
            fields.customer_external_id,
            name=fields.customer_name,
            email=fields.customer_email,
            avatar=fields.customer_avatar,
        )

    def add_customer(
        self,
        click: Click,
        external_id: str,
        *,
        name: str | None,
        email: str | None,
        avatar: str | None,
    ) -> Customer:
        """Create a customer with the click that brought it."""
        customer_id = f"cus_{self.new_id(25)}"
        customer = Customer(
            id=customer_id,
            external_id=external_id,
            name=self._name(name, email),
            email=email,
            avatar=self._hosted(customer_id, avatar),
            click=click,
            created_at=self.clock(),
        )
        self.customers[external_id] = customer
        return customer

    def _record(
        self, customer: Customer, click: Click, fields: LeadFields, around: Around
    ) -> RecordedLead:
        wait = fields.mode is Mode.WAIT
        return self.add_lead(
            RecordedLead(
                id=self.new_id(),
                customer=customer,
                event_name=fields.event_name,
                click=click,
                quantity=fields.event_quantity or 1,
                metadata=fields.metadata,
                at=self.clock(),
                signed=around.signed,
                visible_at=self.clock() + (0 if wait else around.lead_delay),
            )
        )

    def add_lead(self, lead: RecordedLead) -> RecordedLead:
        """Count a lead event."""
        self.leads.append(lead)
        self.changed()
        return lead

    def events(self, kind: str) -> Sequence[Event]:
        """List what counts, oldest first: "leads" or "sales"; clicks are not kept so.

        A lead with a quantity stands there so many times.
        """
        if kind == "sales":
            return self.sales
        if kind != "leads":
            return ()
        return [
            replace(lead, id=f"{lead.id}{n or ''}")
            for lead in self.leads
            for n in range(lead.quantity)
        ]

    # Answers

    def _duplicate(
        self, click_id: str, fields: LeadFields, known: Customer | None
    ) -> dict[str, Any]:
        """Answer 200 with no link; an unknown customer is made up from the call."""
        customer = customer_json(known) if known else self._made_up(fields)
        return self._body(click_id, None, customer)

    def _made_up(self, fields: LeadFields) -> dict[str, Any]:
        # The avatar's address is given although no file will ever be there.
        return {
            "name": self._name(fields.customer_name, fields.customer_email),
            "email": fields.customer_email,
            "avatar": self._hosted(f"cus_{self.new_id(25)}", fields.customer_avatar),
            "externalId": fields.customer_external_id,
        }

    def _body(
        self, click_id: str, link: Link | None, customer: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "click": {"id": click_id},
            "link": link_json(link, self.domain) if link else None,
            "customer": customer,
        }

    def _name(self, name: str | None, email: str | None) -> str:
        return name or email or random_name(self.rng)

    def _hosted(self, customer_id: str, avatar: str | None) -> str | None:
        """Return the address at which Dub says it will keep a copy."""
        if not avatar:
            return None
        return f"https://dubassets.com/customers/{customer_id}/avatar_{self.new_id(7)}"


def _not_found(message: str) -> RefusalError:
    return RefusalError("not_found", message)


def _require_link(link: Link, whose: str, what: str) -> None:
    if link.foreign:
        raise _not_found(errors.link_elsewhere(link.id, whose))
    if link.disabled:
        raise _not_found(errors.link_disabled(link.id, whose, what))


def _chosen_click_id(fields: LeadFields, known: Customer | None) -> str:
    """Take the call's click id, or the customer's first when it is empty."""
    if fields.click_id:
        return fields.click_id
    if known is None:
        raise RefusalError(errors.BAD_REQUEST, errors.CLICK_ID_REQUIRED)
    return known.click.id


def _forget_bad_avatar(customer: Customer, fields: LeadFields, *, fails: bool) -> None:
    """Set an avatar that cannot be fetched to null, an existing one too.

    Dub does so after its answer, at each call that brings one, and also to a customer
    that had a good one. The sandbox fetches nothing: unless the fetch is to fail, every
    http(s) address counts as good.
    """
    avatar = fields.customer_avatar
    good = (avatar or "").startswith(("http://", "https://", "data:"))
    if avatar and (fails or not good):
        customer.avatar = None


def customer_json(customer: Customer) -> dict[str, Any]:
    """Write a customer as the answers of track/* do."""
    return {
        "name": customer.name,
        "email": customer.email,
        "avatar": customer.avatar,
        "externalId": customer.external_id,
    }


def link_json(link: Link, domain: str) -> dict[str, Any]:
    """Write a link as the answer of track/lead does."""
    return {
        "id": link.id,
        "domain": domain,
        "key": link.key,
        "shortLink": f"https://{domain}/{link.key}",
        "url": link.url,
        "partnerId": link.partner_id,
        "programId": "prog_acme" if link.partner else None,
        "tenantId": None,
        "externalId": None,
    }
