"""The script tag changes nothing of a page but itself; html5lib is the judge."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import html5lib  # type: ignore[import-untyped]  # ships no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.proxy.injection import Page
from tests.support.nasty_documents import INSIDE, documents

SOURCE = "/_dub/script.js"
TAG = b'<script src="/_dub/script.js" defer></script>'


def with_tag(page: bytes, *, size: int = 0) -> bytes:
    changing = Page(SOURCE, [(b"Content-Type", b"text/html")])
    pieces = [page]
    if size:
        pieces = [page[at : at + size] for at in range(0, len(page), size)]
    out = b"".join(part for piece in pieces for part in changing.feed(piece))
    return out + changing.end()


def tree(page: bytes, *, scripting: bool) -> Element:
    parser = html5lib.HTMLParser(
        html5lib.getTreeBuilder("etree"), namespaceHTMLElements=False
    )
    parsed = parser.parse(page, transport_encoding="utf-8", scripting=scripting)
    assert isinstance(parsed, Element)
    return parsed


def without_ours(root: Element) -> list[str]:
    """Take our element out of a tree's head; return the tree's nodes in order."""
    head = root.find("head")
    ours = [element for element in root.iter("script") if element.get("src") == SOURCE]
    assert head is not None
    assert len(ours) == 1
    assert ours[0].attrib == {"src": SOURCE, "defer": ""}
    assert not ours[0].text
    place = list(head).index(ours[0])
    if tail := ours[0].tail:
        if place:
            head[place - 1].tail = (head[place - 1].tail or "") + tail
        else:
            head.text = (head.text or "") + tail
    head.remove(ours[0])
    return nodes(root)


def nodes(root: Element) -> list[str]:
    return [
        f"{element.tag} {sorted(element.attrib.items())} "
        f"{element.text or ''!r} {element.tail or ''!r}"
        for element in root.iter()
    ]


def judge(page: bytes) -> bool:
    """Assert that a page stays whole; return whether it has the tag."""
    changed = with_tag(page)
    assert with_tag(page, size=1) == changed
    if changed == page:
        return False
    assert changed.replace(TAG, b"", 1) == page
    for scripting in (False, True):
        before = nodes(tree(page, scripting=scripting))
        assert without_ours(tree(changed, scripting=scripting)) == before
    return True


def test_nasty_documents_keep_their_tree() -> None:
    pages = list(documents())
    tagged = [page for page in pages if judge(page)]

    assert len(pages) > 1_000
    assert len(tagged) > len(pages) * 3 // 4


@pytest.mark.parametrize(
    "page",
    [
        (
            b'<!doctype html><html><head><meta content="Shop of </head ><img src=x '
            b'onerror=a()>"></head><body>b</body></html>'
        ),
        (
            b'<!doctype html><html data-name="</head ><img src=x onerror=a()>"><head>'
            b"<title>a</title></head><body>b</body></html>"
        ),
    ],
)
def test_a_visitors_text_in_an_attribute_stays_text(page: bytes) -> None:
    assert judge(page)
    assert tree(with_tag(page), scripting=True).find(".//img") is None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(INSIDE),
            st.sampled_from(
                [b"<", b">", b"!", b"-", b"--", b"/", b'"', b"'", b"=", b" ", b"a"]
            ),
            st.sampled_from(
                [b"<html", b"<head>", b"</head>", b"<body", b"<script", b"</script"]
            ),
            st.sampled_from([b"<!--", b"-->", b"<title", b"</title", b"<style>"]),
        ),
        max_size=12,
    )
)
def test_any_document_keeps_its_tree(parts: list[bytes]) -> None:
    # html5lib ends a comment at "<!--\0>", against 13.2.5.43; the corpus has NULs.
    judge(b"<!doctype html>" + b"".join(parts).replace(b"\0", b""))


@pytest.mark.parametrize(
    "page",
    [
        b'{"html": "<html><head></head><body></body>"}',
        b'["</head>"]',
        b'"<head></head>"',
        b"\xef\xbb\xbf" + b'{"a": "</head>"}',
        b"callback({'a': '</head>'})",
        b"<li>a fragment</li>",
        b"<!doctype html><meta charset=iso-2022-jp><title>\x1b$B</title></head>",
        "<!doctype html><head></head>".encode("utf-16"),
        "<!doctype html><head></head>".encode("utf-16-le"),
        b"",
        b"<",
    ],
)
def test_what_does_not_begin_like_a_document_stays_as_it_is(page: bytes) -> None:
    assert with_tag(page) == with_tag(page, size=1) == page
