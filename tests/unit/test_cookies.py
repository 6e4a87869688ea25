"""The click cookie and its signed copy: read, written, cleared, sealed."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import signing
from relay.core.http import cookies
from relay.core.http.cookies import SignedCookie

NOW = 1_754_000_000_123
CLICK = "hQWlMabcDEF12345"
PARTNER = (
    'dub_partner_data={"clickId":"x","partner":{"id":"pn_1","name":"A%20B"},'
    '"discount":null}'
)
# Text as it comes out of header bytes: lone surrogates included.
any_text = st.text(st.characters(exclude_categories=()))
click_ids = st.from_regex(r"[A-Za-z0-9_-]{8,64}", fullmatch=True).filter(
    cookies.is_click_id
)
ADDRESSES = json.loads(
    Path(__file__).parents[1].joinpath("support", "addresses.json").read_text()
)


class TestReading:
    def test_a_click_is_found_after_dubs_own_cookie_with_quotes_and_commas(
        self,
    ) -> None:
        assert cookies.click_id([f"{PARTNER}; dub_id={CLICK}; sid=1"]) == CLICK

    def test_the_partner_cookie_itself_is_read_whole(self) -> None:
        found = cookies.values([f"a=1; {PARTNER}; b=2"], "dub_partner_data")

        assert found == [PARTNER.partition("=")[2]]

    def test_the_newest_of_two_cookies_wins(self) -> None:
        """Browsers list those of one path in the order of their making."""
        header = "dub_id=SUBDOMAIN1; dub_id=APEX12345"

        assert cookies.click_id([header]) == "APEX12345"

    @pytest.mark.parametrize(
        ("signed", "expected"),
        [
            (None, "SECOND123"),
            (SignedCookie("FIRST1234", 1, 1, "/"), "FIRST1234"),
            (SignedCookie("elsewhere1", 1, 1, "/"), "SECOND123"),
            (SignedCookie("SECOND123", 1, 1, "/", used=True), "FIRST1234"),
        ],
        ids=["nothing proven", "the older one", "another", "the newer one is used"],
    )
    def test_the_newest_proven_click_wins(
        self, signed: SignedCookie | None, expected: str
    ) -> None:
        given = ["FIRST1234", "SECOND123"]

        assert cookies.newest_click(given, signed) == expected

    def test_a_used_click_is_none(self) -> None:
        used = SignedCookie(CLICK, 1, 1, "/", used=True)

        assert cookies.newest_click([CLICK, CLICK], used) is None
        assert cookies.newest_click([], used) is None

    @pytest.mark.parametrize(
        "header",
        [
            f"sid=1, dub_id={CLICK}",
            f"dub_id={CLICK}, sid=1",
            f"{PARTNER}, dub_id={CLICK}, b=2",
        ],
    )
    def test_cookies_that_a_server_joined_by_commas_are_found(
        self, header: str
    ) -> None:
        assert cookies.click_id([header]) == CLICK

    def test_a_comma_in_another_value_hides_no_click(self) -> None:
        header = f"a=1, dub_id=EVIL1234; dub_id={CLICK}"

        assert cookies.click_id([header]) == CLICK

    def test_what_dubs_install_check_plants_is_passed_over(self) -> None:
        assert cookies.click_id([f"dub_id=test; dub_id={CLICK}"]) == CLICK

    def test_every_cookie_header_is_read_in_order(self) -> None:
        headers = ["a=1", "dub_id=FIRST1234", "dub_id=SECOND123"]

        assert cookies.values(headers, "dub_id") == ["FIRST1234", "SECOND123"]

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            (f'dub_id="{CLICK}"', [CLICK]),
            ("dub_id=", [""]),
            ('dub_id=""', [""]),
            ('dub_id="', ['"']),
            ("dub_id=a=b==", ["a=b=="]),
            (" \tdub_id \t= \tx ", ["x"]),
            ("dub_id", []),
            ("Dub_Id=x", []),
            ("xdub_id=x", []),
            ("dub_id_acme.test_key=x", []),
            ("", []),
            (";;;=;", []),
            ("dub_id=x,dub_id=y", ["x,dub_id=y"]),
        ],
    )
    def test_names_are_exact_and_values_raw(
        self, header: str, expected: list[str]
    ) -> None:
        assert cookies.values([header], "dub_id") == expected

    def test_an_opening_quote_in_another_cookie_swallows_nothing(self) -> None:
        header = f'a="x; dub_id={CLICK}; b=y"'

        assert cookies.click_id([header]) == CLICK

    def test_a_click_cut_out_of_a_quoted_value_is_no_click(self) -> None:
        header = f'a="x; dub_id=EVIL12345678"; dub_id={CLICK}'

        assert cookies.click_id([header]) == CLICK

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("a" * 7, False),
            ("a" * 8, True),
            ("a" * 64, True),
            ("a" * 65, False),
            ("abc_DEF-123", True),
            ("abcdefgé", False),
            ("abcdefg\u0661", False),
            ("abcdefgh\n", False),
            ("abcd efgh", False),
            ("abcdefgh;", False),
        ],
    )
    def test_a_click_id_is_8_to_64_of_the_url_safe_alphabet(
        self, value: str, *, expected: bool
    ) -> None:
        assert cookies.is_click_id(value) is expected

    @given(st.lists(any_text), any_text)
    def test_nothing_in_a_header_raises(self, headers: list[str], name: str) -> None:
        found = cookies.values(headers, name)

        assert all(";" not in value for value in found)
        assert cookies.click_id(headers) is None or cookies.is_click_id(
            cookies.click_id(headers) or ""
        )

    @given(
        st.lists(st.text(st.characters(exclude_characters=";"))),
        click_ids,
        st.lists(st.text(st.characters(exclude_characters=";"))),
    )
    def test_a_click_is_found_whatever_stands_around_it(
        self, before: list[str], click: str, after: list[str]
    ) -> None:
        header = "; ".join([*before, f"dub_id={click}", *after])

        assert click in cookies.values([header], "dub_id")


class TestAddresses:
    @pytest.mark.parametrize(("target", "click"), ADDRESSES)
    def test_a_click_is_found_however_its_address_was_mangled(
        self, target: str, click: str | None
    ) -> None:
        assert cookies.landing_click(target) == click

    @given(st.text())
    def test_no_address_raises(self, target: str) -> None:
        found = cookies.landing_click(f"/?dub_id={target}")

        assert found is None or cookies.is_click_id(found)


class TestDomain:
    def test_a_browser_may_hold_cookies_of_the_host_and_its_parents(self) -> None:
        assert cookies.cookie_domains("www.app.acme.test:80", ".acme.test") == (
            ".acme.test",
            ".www.app.acme.test",
            ".app.acme.test",
            None,
        )
        assert cookies.cookie_domains("localhost") == (None,)
        assert cookies.cookie_domains("127.0.0.1:80") == (None,)

    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            ("acme.test", ".acme.test"),
            ("www.acme.test", ".acme.test"),
            ("WWW.Acme.Test:8080", ".acme.test"),
            ("www.www.acme.test", ".www.acme.test"),
            ("app.acme.test", ".app.acme.test"),
            ("foo.vercel.app:443", ".foo.vercel.app"),
            ("my_app.acme.test", ".my_app.acme.test"),
            ("acme.test.", ".acme.test"),
            ("acme.test.:80", ".acme.test"),
            ("müller.test", ".xn--mller-kva.test"),
            ("127.0.0.1.nip.io", ".127.0.0.1.nip.io"),
        ],
    )
    def test_it_is_the_host_without_www_as_in_dubs_script(
        self, host: str, expected: str
    ) -> None:
        assert cookies.cookie_domain(host) == expected

    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "localhost:8080",
            "app.localhost",
            "intranet",
            "www.intranet",
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.1",
            "0x7f.0x1",
            "[::1]",
            "[::1]:8080",
            "::1",
            "",
            ".",
            "acme..test",
            "..acme.test",
            "-",
            "acme.test:80:90",
            "acme.test:x",
            "evil.test; Path=/x",
            "evil.test\r\nSet-Cookie: a=b",
            "evil.test,x",
            "a@evil.test",
            "a b.test",
            "\ud800.test",
            "é" * 300 + ".test",
            "x" * 64 + ".test",
            ".".join(["abcdefg"] * 40),
        ],
    )
    def test_there_is_none_where_a_browser_would_refuse_it(self, host: str) -> None:
        assert cookies.cookie_domain(host) is None

    def test_a_configured_domain_wins(self) -> None:
        assert cookies.cookie_domain("app.acme.test", "acme.test") == ".acme.test"
        assert cookies.cookie_domain("other.test", ".Acme.test") == ".acme.test"
        assert cookies.cookie_domain("app.acme.test", "") == ".app.acme.test"

    @given(any_text)
    def test_no_host_can_carry_more_than_a_domain(self, host: str) -> None:
        domain = cookies.cookie_domain(host)

        assert domain is None or (
            set(domain) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-.")
            and domain.startswith(".")
            and len(domain) <= 254
        )


class TestWriting:
    def test_the_click_cookie_is_written_as_dubs_script_writes_it(self) -> None:
        written = cookies.write_click(CLICK, domain=".acme.test", days=90, now=NOW)

        assert written == (
            f"dub_id={CLICK}; Domain=.acme.test; Path=/; "
            "Expires=Wed, 29 Oct 2025 22:13:20 GMT; Max-Age=7776000; SameSite=Lax"
        )

    def test_expires_and_max_age_agree(self) -> None:
        written = cookies.write_click(CLICK, domain=None, days=30, now=NOW)
        attributes = dict(part.split("=", 1) for part in written.split("; "))
        expires = parsedate_to_datetime(attributes["Expires"]).timestamp()

        assert expires == NOW // 1000 + int(attributes["Max-Age"])
        assert "Domain" not in attributes

    def test_a_life_is_cut_to_what_browsers_keep(self) -> None:
        written = cookies.write_click(CLICK, domain=None, days=1000, now=NOW)

        assert f"Max-Age={400 * 86_400};" in written

    def test_a_cookie_lives_a_day_at_least(self) -> None:
        with pytest.raises(ValueError, match="at least one day"):
            cookies.write_click(CLICK, domain=None, days=0, now=NOW)

    @given(any_text)
    def test_no_id_can_add_an_attribute(self, value: str) -> None:
        if cookies.is_click_id(value):
            written = cookies.write_click(value, domain=None, days=90, now=NOW)
            assert written.startswith(f"dub_id={value}; Path=/; Expires=")
        else:
            with pytest.raises(ValueError, match="not a click id"):
                cookies.write_click(value, domain=None, days=90, now=NOW)

    def test_no_domain_can_add_an_attribute(self) -> None:
        with pytest.raises(ValueError, match="not a cookie domain"):
            cookies.write_click(CLICK, domain=".a.test; Secure", days=90, now=NOW)

    def test_clearing_removes_both_forms(self) -> None:
        gone = "Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; SameSite=Lax"

        assert cookies.clear_click(".acme.test") == (
            f"dub_id=; Domain=.acme.test; {gone}",
            f"dub_id=; {gone}",
        )
        assert cookies.clear_click(None) == (f"dub_id=; {gone}",)

    @pytest.mark.parametrize(("secure", "tail"), [(True, "; Secure"), (False, "")])
    def test_the_signed_cookie_is_out_of_reach_for_scripts(
        self, *, secure: bool, tail: str
    ) -> None:
        written = cookies.write_signed_cookie(
            "abc.def-_9", domain=".acme.test", days=90, now=NOW, secure=secure
        )

        assert written == (
            "dub_relay=abc.def-_9; Domain=.acme.test; Path=/; "
            "Expires=Wed, 29 Oct 2025 22:13:20 GMT; Max-Age=7776000; "
            f"SameSite=Lax; HttpOnly{tail}"
        )

    @pytest.mark.parametrize("sealed", ["", "a;b", "a b", "é", "x" * 3801])
    def test_only_sealed_text_is_written_as_signed_cookie(self, sealed: str) -> None:
        with pytest.raises(ValueError, match="not a sealed click cookie"):
            cookies.write_signed_cookie(
                sealed, domain=None, days=90, now=NOW, secure=True
            )


SEEN = SignedCookie(CLICK, NOW - 5000, NOW - 1000, "/pricing")
OTHER = "otherCLICK123456"


class TestAttribution:
    def test_a_first_landing_is_remembered_without_its_query(self) -> None:
        found = cookies.landed(None, CLICK, NOW, "/pricing?dub_id=x&a=1#top")

        assert found == SignedCookie(CLICK, NOW, NOW, "/pricing", used=False)

    @pytest.mark.parametrize("attribution", ["last-click", "first-click"])
    def test_the_same_click_again_keeps_its_first_sight(
        self, attribution: cookies.Attribution
    ) -> None:
        found = cookies.landed(SEEN, CLICK, NOW, "/other", attribution)

        assert found == SignedCookie(CLICK, NOW - 5000, NOW, "/pricing")

    def test_the_last_click_counts_by_default(self) -> None:
        found = cookies.landed(SEEN, OTHER, NOW, "/new")

        assert found == SignedCookie(OTHER, NOW, NOW, "/new", before=CLICK)
        assert cookies.first_of(found, NOW).click_id == CLICK

    def test_the_first_click_is_kept_where_it_counts(self) -> None:
        found = cookies.landed(SEEN, OTHER, NOW, "/new", "first-click")

        assert found == SignedCookie(CLICK, NOW - 5000, NOW, "/pricing")

    def test_a_used_first_click_makes_room_for_the_next(self) -> None:
        used = cookies.use(SEEN, NOW - 500)

        assert used == SignedCookie(CLICK, NOW - 5000, NOW - 500, "/pricing", used=True)
        assert cookies.landed(used, OTHER, NOW, "/new", "first-click") == SignedCookie(
            OTHER, NOW, NOW, "/new"
        )

    def test_reloading_the_landing_page_does_not_make_a_used_click_new(self) -> None:
        used = cookies.use(SEEN, NOW - 500)

        assert cookies.landed(used, CLICK, NOW, "/pricing").used


OLD, NEW = "old-secret", "new-secret"
AGE_S = 90 * 86_400

signed_cookies = st.builds(
    SignedCookie,
    click_ids,
    st.integers(0, 2**53),
    st.integers(0, 2**53),
    st.text(st.characters(exclude_characters="?#", codec="utf-8"), max_size=200),
    st.booleans(),
)


class TestSealing:
    def test_the_newest_genuine_one_counts(self) -> None:
        old = cookies.seal(SignedCookie("older12345", 1, NOW - 9, "/"), [NEW], NOW)
        new = cookies.seal(SignedCookie("newer12345", 1, NOW - 1, "/"), [NEW], NOW)
        for sealed in ([old, new, "a.b.c"], [new, old], ["a.b.c", new, old]):
            found = cookies.newest_signed(sealed, [NEW], NOW, AGE_S)
            assert found is not None
            assert found.click_id == "newer12345"

    def test_only_a_few_are_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried: list[str] = []

        def counting(value: str, *_: object) -> None:
            tried.append(value)

        monkeypatch.setattr(cookies, "unseal", counting)
        many = [f"x.y.{number}" for number in range(10_000)]

        assert cookies.newest_signed(many, [NEW], NOW, AGE_S) is None
        assert tried == many[: cookies.MAX_TRIED]

    @given(signed_cookies)
    def test_what_is_sealed_can_be_unsealed_and_fits_a_cookie(
        self, signed_cookie: SignedCookie
    ) -> None:
        sealed = cookies.seal(signed_cookie, [NEW], NOW)
        written = cookies.write_signed_cookie(
            sealed, domain=".acme.test", days=90, now=NOW, secure=True
        )

        assert cookies.unseal(sealed, [NEW], NOW, AGE_S) == signed_cookie
        assert len(written) < 2000

    def test_a_long_landing_is_cut_and_lone_surrogates_are_replaced(self) -> None:
        sealed = cookies.seal(
            SignedCookie(CLICK, NOW, NOW, "/\ud800" + "é" * 300), [NEW], NOW
        )
        found = cookies.unseal(sealed, [NEW], NOW, AGE_S)

        assert found is not None
        assert found.landing == "/?" + "é" * 198

    def test_the_first_secret_signs_and_all_verify(self) -> None:
        sealed_before = cookies.seal(SEEN, [OLD], NOW)
        sealed_after = cookies.seal(SEEN, [NEW, OLD], NOW)

        assert cookies.unseal(sealed_before, [NEW, OLD], NOW, AGE_S) == SEEN
        assert cookies.unseal(sealed_after, [NEW], NOW, AGE_S) == SEEN
        assert cookies.unseal(sealed_after, [OLD], NOW, AGE_S) is None

    def test_it_ends_with_its_age(self) -> None:
        sealed = cookies.seal(SEEN, [NEW], NOW)

        assert cookies.unseal(sealed, [NEW], NOW + 60_000, 60) == SEEN
        assert cookies.unseal(sealed, [NEW], NOW + 61_000, 60) is None

    def test_a_clock_may_be_a_little_behind(self) -> None:
        sealed = cookies.seal(SEEN, [NEW], NOW)

        assert cookies.unseal(sealed, [NEW], NOW - 60_000, AGE_S) == SEEN
        assert cookies.unseal(sealed, [NEW], NOW - 61_000, AGE_S) is None

    @given(st.integers(min_value=0), st.characters(exclude_categories=()))
    def test_no_altered_character_passes(self, place: int, char: str) -> None:
        sealed = cookies.seal(SEEN, [NEW], NOW)
        at = place % (len(sealed) - 1)  # the last one has bits that mean nothing
        altered = sealed[:at] + char + sealed[at + 1 :]

        expected = SEEN if altered == sealed else None
        assert cookies.unseal(altered, [NEW], NOW, AGE_S) == expected

    @given(any_text)
    def test_garbage_is_nobodys_signed_cookie(self, value: str) -> None:
        assert cookies.unseal(value, [NEW], NOW, AGE_S) is None

    def test_what_was_signed_for_another_purpose_is_worth_nothing(self) -> None:
        content = {"c": CLICK, "f": 1, "l": 1, "p": "/", "u": False}
        ours = signing.sign_json(content, [NEW], "dub-relay.companion", NOW)
        other = signing.sign_json(content, [NEW], "dub-relay.session", NOW)

        assert cookies.unseal(ours, [NEW], NOW, AGE_S) is not None
        assert cookies.unseal(other, [NEW], NOW, AGE_S) is None

    @pytest.mark.parametrize(
        "content",
        [
            None,
            [],
            {"c": CLICK},
            {"c": "test", "f": 1, "l": 1, "p": "/", "u": False},
            {"c": CLICK, "f": "1", "l": 1, "p": "/", "u": False},
        ],
    )
    def test_signed_content_of_another_shape_is_none(self, content: object) -> None:
        sealed = signing.sign_json(content, [NEW], "dub-relay.companion", NOW)

        assert cookies.unseal(sealed, [NEW], NOW, AGE_S) is None
