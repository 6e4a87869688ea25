"""``GET /commissions`` and ``PATCH /commissions/{id}``: a partner's pay for each sale.

Here each sale that has an invoice has a commission, as if all links were partners'.
"""

from __future__ import annotations

from typing import Any, Final

from relay.sandbox.api import Api
from relay.sandbox.faults import Conditions
from relay.sandbox.model import RecordedSale, RefusalError
from relay.sandbox.wire import Incoming, Reply

STATUSES: Final = ("pending", "refunded", "duplicate", "canceled", "fraud")

_PUT_ASIDE: Final = ("duplicate", "canceled", "fraud")
"""What the list leaves out, unless it is asked for that status."""

_PATH: Final = "/commissions/"


class CommissionsApi:
    """The two endpoints over one Dub. Nothing is ever paid out here."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._statuses: dict[str, str] = {}

    def listed(self, call: Incoming, conditions: Conditions) -> Reply:
        """``GET /commissions``, by invoiceId."""
        return self._api.served(call, conditions, self._list)

    def changed(self, call: Incoming, conditions: Conditions) -> Reply:
        """``PATCH /commissions/{id}``: its status."""
        return self._api.served(call, conditions, self._change)

    def _list(self, call: Incoming, _: Conditions) -> Reply:
        wanted, status = (call.query.get(name) for name in ("invoiceId", "status"))
        shown = (
            self._json(sale)
            for sale in self._api.dub.sales
            if sale.invoice_id is not None and wanted in (None, sale.invoice_id)
        )
        listed = [
            one
            for one in shown
            if (one["status"] == status if status else one["status"] not in _PUT_ASIDE)
        ]
        return Reply(200, listed)

    def _change(self, call: Incoming, _: Conditions) -> Reply:
        wanted = call.path.removeprefix(_PATH)
        sales = self._api.dub.sales
        sale = next((one for one in sales if _id(one) == wanted), None)
        if sale is None:
            raise RefusalError("not_found", f"Commission {wanted} not found.")
        status = call.fields.get("status")
        if status not in STATUSES:
            options = "|".join(f'"{each}"' for each in STATUSES)
            message = (
                f"invalid_value: status: Invalid option: expected one of {options}"
            )
            raise RefusalError("unprocessable_entity", message)
        if status == self._status(sale):
            message = f"This commission is already in the {status} status."
            raise RefusalError("bad_request", message)
        self._statuses[wanted] = status
        self._api.dub.changed()
        return Reply(200, self._json(sale))

    def _status(self, sale: RecordedSale) -> str:
        return self._statuses.get(_id(sale), "pending")

    def _json(self, sale: RecordedSale) -> dict[str, Any]:
        return {
            "id": _id(sale),
            "type": "sale",
            "amount": sale.amount,
            "earnings": sale.amount // 10,
            "currency": sale.currency,
            "status": self._status(sale),
            "invoiceId": sale.invoice_id,
            "quantity": 1,
        }


def _id(sale: RecordedSale) -> str:
    return f"cm_{sale.id}"
