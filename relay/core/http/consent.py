"""What a consent cookie says of marketing: yes, no, or nothing. Pure.

The cookie is another program's, and most have a format of their own. So it is read for
what all of them have in common: a purpose and, beside it, a word that says yes. What
cannot be read as a yes is a no. ``static/snippet/src/consent.js`` reads alike, and
``tests/support/consents.json`` holds both to it.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

MOST: Final = 4096
"""Characters of a cookie that are read: browsers keep no longer one."""

_YES: Final = r"(?:true|1|y(?:es)?|on|all|allow(?:ed)?|accept(?:ed)?|grant(?:ed)?)"
_PLAIN_YES: Final = re.compile(_YES, re.IGNORECASE)
_LISTS: Final = re.compile(
    r'"(?:categories|enabled|accepted(?:categories)?)"\s*:\s*\[([^\]]*)\]',
    re.IGNORECASE,
)

_PURPOSES: Final = "|".join(
    (
        *(
            "marketing",
            "advertisement",
            "advertising",
            "ads",
            "ad_storage",
            "targeting",
        ),
        *("select_personalized_ads", "create_ads_profile"),  # Didomi, after IAB's TCF
        *("C0004", "campaigns", '"5'),  # OneTrust, GOV.UK, iubenda
        "dub",  # where services are listed by name
    )
)
"""What platforms call the purpose that a click cookie serves."""

_SAID: Final = re.compile(
    rf"""(?:^|[^\w-])(?:{_PURPOSES})["']?\s*[:=]\s*["']?([\w-]+)""", re.IGNORECASE
)
_LISTED: Final = re.compile(rf'"(?:{_PURPOSES})"', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ConsentCookie:
    """Which cookie says whether a click may be kept.

    ``name`` ending in ``*`` is the beginning of one. ``wanted`` is the only value that
    means yes; without it a purpose of marketing must be said yes to, or the whole value
    be a word that says yes.
    """

    name: str
    wanted: str | None = None

    def verdict(self, cookies: Sequence[tuple[str, str]]) -> bool | None:
        """Read a request's cookies, each a name and a value; None: it is not there.

        Where there are several of that name, all must say yes.
        """
        values = [value for name, value in cookies if self._is_meant(name)]
        if not values:
            return None
        return all(self._says_yes(value) for value in values)

    def _is_meant(self, name: str) -> bool:
        if self.name.endswith("*"):
            return name.startswith(self.name[:-1])
        return name == self.name

    def _says_yes(self, value: str) -> bool:
        if self.wanted is not None:
            return self.wanted in (value, decoded(value))
        if len(value) > MOST:
            return False
        text = decoded(value)
        if self.name == COOKIEBOT and text == "-1":
            return True  # the visitor is where no consent is needed
        if said := _SAID.findall(text):
            return all(_PLAIN_YES.fullmatch(word) for word in said)
        if lists := _LISTS.findall(text):
            return any(_LISTED.search(names) for names in lists)
        return _PLAIN_YES.fullmatch(text) is not None


COOKIEBOT: Final = "CookieConsent"

PLATFORMS: Final[Mapping[str, str]] = {
    "cookiebot": COOKIEBOT,
    "cookieyes": "cookieyes-consent",
    "onetrust": "OptanonConsent",
    "didomi": "didomi_token",
    "klaro": "klaro",
    "cookieconsent": "cc_cookie",
    "iubenda": "_iub_cs-*",
    "tarteaucitron": "tarteaucitron",
    "complianz": "cmplz_marketing",
    "axeptio": "axeptio_cookies",
    "govuk": "cookies_policy",
}
"""Platforms, and the cookie that each keeps (docs/snippet.md, "Consent platforms")."""


def parse_consent(text: str) -> ConsentCookie:
    """Read ``NAME``, ``NAME=VALUE`` or a platform's name; raise ValueError."""
    name, equals, wanted = text.partition("=")
    if not re.fullmatch(r"[!-:<>-~]+", name):
        raise ValueError("not a cookie's name. Use NAME, NAME=VALUE or a platform")
    return ConsentCookie(PLATFORMS.get(name, name), wanted if equals else None)


def decoded(value: str) -> str:
    """Undo percent-encoding, however often it was done, and base64 of JSON."""
    text = value.strip('" ')
    for _ in range(3):
        if not re.search(r"%[0-9A-Fa-f]{2}", text):
            break
        text = unquote_to_bytes(text).decode("utf-8", "replace")
    if text.startswith("eyJ"):
        try:
            return b64decode(text + "=" * (-len(text) % 4)).decode()
        except ValueError:
            return text
    return text
