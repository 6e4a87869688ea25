"""Redirects and cookies of a site that goes by another Host than its visitors ask."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.core.http.site_host import SiteHost

APP = SiteHost("app.test")


def returned(name: str, value: str, host: SiteHost = APP) -> str:
    [(_, found)] = host.returned([(name.encode(), value.encode())])
    return found.decode()


@pytest.mark.parametrize("name", ["Location", "location", "Content-Location"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://app.test/welcome?x=1#y", "/welcome?x=1#y"),
        ("http://app.test/", "/"),
        ("https://app.test", "/"),
        ("https://APP.test:443/a", "/a"),
        ("http://app.test:80/a", "/a"),
        ("//app.test/a", "/a"),
        ("https://app.test?x", "/?x"),
        ("https://app.test#x", "/#x"),
        ("/a", "/a"),
        ("a", "a"),
        ("", ""),
        ("https://shop.test/a", "https://shop.test/a"),
        ("https://app.test:8080/", "https://app.test:8080/"),
        ("https://app.test.evil.test/", "https://app.test.evil.test/"),
        ("https://app.test@evil.test/", "https://app.test@evil.test/"),
        ("https://evil.test/https://app.test/", "https://evil.test/https://app.test/"),
        # What a browser would read as another host, without this one before it.
        ("https://app.test//evil.test", "https://app.test//evil.test"),
        ("https://app.test/\\evil.test", "https://app.test/\\evil.test"),
        ("https://app.test/\t/evil.test", "https://app.test/\t/evil.test"),
    ],
)
def test_a_redirect_to_the_sites_own_name_becomes_a_path(
    name: str, value: str, expected: str
) -> None:
    assert returned(name, value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0; url=https://app.test/a", "0; url=/a"),
        ("5;URL='https://app.test'", "5;URL='/'"),
        ('5, url = "//app.test?x"', '5, url = "/?x"'),
        ("5", "5"),
        ("0; url=https://shop.test/a", "0; url=https://shop.test/a"),
    ],
)
def test_refresh_is_a_redirect_too(value: str, expected: str) -> None:
    assert returned("Refresh", value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a=b; Path=/; Domain=app.test; Secure", "a=b; Path=/; Secure"),
        ("a=b;domain=.APP.test", "a=b"),
        ("a=b; Domain = app.test ; HttpOnly", "a=b; HttpOnly"),
        ("a=b; Domain=shop.test", "a=b; Domain=shop.test"),
        ("a=b; Domain=www.app.test", "a=b; Domain=www.app.test"),
        ("a=domain=app.test; Path=/", "a=domain=app.test; Path=/"),
    ],
)
def test_a_cookie_of_the_sites_own_name_is_one_of_the_visitors_host(
    value: str, expected: str
) -> None:
    assert returned("Set-Cookie", value) == expected


def test_other_fields_stay_as_they_are() -> None:
    assert returned("Link", "<https://app.test/>") == "<https://app.test/>"


@pytest.mark.parametrize(
    ("name", "server_name", "value", "expected"),
    [
        ("app.test:8443", "app.test", "https://app.test:8443/a", "/a"),
        ("app.test:8443", "app.test", "https://app.test/a", "https://app.test/a"),
        ("[::1]:81", "::1", "http://[::1]:81/a", "/a"),
        ("[::1]", "::1", "http://[::1]/a", "/a"),
    ],
)
def test_a_name_may_have_a_port_and_brackets(
    name: str, server_name: str, value: str, expected: str
) -> None:
    host = SiteHost(name)

    assert host.server_name == server_name
    assert returned("Location", value, host) == expected


@given(st.text(st.sampled_from("/\\?#@:.ax'\t "), max_size=8))
@example("/\t/a")
def test_no_redirect_leads_to_a_host_that_it_did_not_lead_to(rest: str) -> None:
    value = f"https://app.test{rest}"
    found = returned("Location", value)

    # As browsers read it: "\" is "/", a tab is nothing (WHATWG URL, 4.4).
    plain = found.replace("\\", "/").replace("\t", "")
    goes = urlsplit(urljoin("https://shop.test/join", plain))
    assert found == value or goes.netloc == "shop.test"
