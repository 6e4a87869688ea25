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

MOST: Final = 4096
"""Characters of a cookie that are read: browsers keep no longer one."""

_YES: Final = r"(?:true|1|y(?:es)?|on|all|allow(?:ed)?|accept(?:ed)?|grant(?:ed)?)"
_PLAIN_YES: Final = re.compile(_YES, re.IGNORECASE)
_PLAIN_NO: Final = re.compile(
    r"false|0|no?|off|none|den(?:y|ied)|disallow(?:ed)?|reject(?:ed)?|declined?"
    r"|refused?|opt_?out|necessary|essential|null|wait",
    re.IGNORECASE,
)
_LISTS: Final = re.compile(
    r'"(?:categories|enabled|accepted(?:categories)?)"\s*:\s*\[([^\]]*)\]',
    re.IGNORECASE,
)
_INTERESTS: Final = re.compile(r'"\w+_li"\s*:\s*\{[^}]*\}')
"""Didomi's legitimate interests: what nobody objected to, which is no consent."""

_ESCAPE: Final = re.compile(r"%([2-7][0-9A-Fa-f])")
"""Of an ASCII character: no purpose and no word for yes needs another."""

_PURPOSES: Final = "|".join(
    (
        *(
            "marketing",
            "advertisement",
            "advertising",
            "ads",
            "ad_?storage",
            "targeting",
        ),
        *("select_personalized_ads", "create_ads_profile"),  # Didomi, after IAB's TCF
        *("C0004", "campaigns", '"5'),  # OneTrust, GOV.UK, iubenda
        "dub",  # where services are listed by name
    )
)
"""What platforms call the purpose that a click cookie serves."""


@dataclass(frozen=True, slots=True)
class ConsentCookie:
    """Which cookie says whether a click may be kept.

    A ``*`` in ``name`` stands for digits. ``wanted`` is the only value that means yes;
    without it ``purposes``, a pattern, must be said yes to, or the whole value must be
    a word that says yes.
    """

    name: str
    wanted: str | None = None
    purposes: str = _PURPOSES

    def verdict(self, cookies: Sequence[tuple[str, str]]) -> bool | None:
        """Read a request's cookies, each a name and a value; None: it is not there.

        Where there are several of that name, all must say yes.
        """
        values = self._values(cookies)
        return all(self._says(value) is True for value in values) if values else None

    def is_readable(self, cookies: Sequence[tuple[str, str]]) -> bool:
        """Whether what the cookie says is a yes or a no, not only taken for one."""
        return all(self._says(value) is not None for value in self._values(cookies))

    def _values(self, cookies: Sequence[tuple[str, str]]) -> list[str]:
        meant = re.compile(re.escape(self.name).replace(r"\*", "[0-9]+"))
        return [value for name, value in cookies if meant.fullmatch(name)]

    def _says(self, value: str) -> bool | None:
        """Read one value; None if it is neither a yes nor a no."""
        if self.wanted is not None:
            return self.wanted in (value, decoded(value))
        if len(value) > MOST:
            return None
        text = decoded(value)
        if self.name == COOKIEBOT and text == "-1":
            return True  # the visitor is where no consent is needed
        named = rf"""(?:^|[^\w-])(?:{self.purposes})["']?\s*[:=]\s*["']?([\w-]+)"""
        if said := re.findall(named, text, re.IGNORECASE | re.ASCII):
            answers = [_yes_or_no(word) for word in said]
            return None if None in answers else all(answers)
        if lists := _LISTS.findall(text):
            listed = re.compile(rf'"(?:{self.purposes})"', re.IGNORECASE)
            return any(listed.search(names) for names in lists)
        return _yes_or_no(text)


def _yes_or_no(word: str) -> bool | None:
    if _PLAIN_YES.fullmatch(word):
        return True
    return False if _PLAIN_NO.fullmatch(word) else None


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
    "usercentrics": "ucData",
    "osano": "osano_consentmanager",
    "termly": "TERMLY_API_CACHE",
}
"""Platforms, and the cookie that each keeps (docs/snippet.md, "Consent platforms")."""


def parse_consent(text: str) -> ConsentCookie:
    """Read ``NAME``, ``NAME=VALUE`` or ``NAME:PURPOSE``; raise ValueError.

    For the name, a platform's will do.
    """
    found = re.fullmatch(r"([!-9<>-~]+)(?:=(.*)|:(.+))?", text, re.DOTALL)
    if found is None:
        raise ValueError(
            "not a cookie's name. Use NAME, NAME=VALUE, NAME:PURPOSE or a platform"
        )
    name = PLATFORMS.get(found[1], found[1])
    purposes = re.escape(found[3]) if found[3] else _PURPOSES
    return ConsentCookie(name, found[2], purposes)


def decoded(value: str) -> str:
    """Undo the percent-encoding of ASCII, however often it was done, and base64.

    What was a legitimate interest is left out.
    """
    text = value.strip('" ')
    for _ in range(3):
        text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    if text.startswith("eyJ"):
        try:
            text = b64decode(text + "=" * (-len(text) % 4), validate=True).decode(
                "latin-1"
            )
        except ValueError:
            return text
    return _INTERESTS.sub("", text)
