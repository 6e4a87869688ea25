"""Content codings, as bodies and pages are decoded."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]  # ships no types
import pytest
from backports import zstd
from hypothesis import example, given
from hypothesis import strategies as st

from relay.core.http.codings import DECODERS, PIECE, beginning, decoded


def bare(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", bare),
    ("br", brotli.compress),
    ("zstd", zstd.compress),
    ("zstd", lambda body: zstd.compress(body) + zstd.compress(b"")),
]


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
@example(b"\x1f\x8b\x08", 1)
@example(b"\x28\xb5\x2f\xfd", 1)
@given(st.binary(max_size=300), st.integers(1, 40))
def test_a_body_is_decoded_whatever_pieces_it_comes_in(
    coding: str, pack: Callable[[bytes], bytes], body: bytes, size: int
) -> None:
    packed = pack(body)
    decoder = DECODERS[coding]()
    found = b""
    for at in range(0, len(packed), size):
        assert b"".join(decoder.feed(b"")) == b""
        found += b"".join(decoder.feed(packed[at : at + size]))

    assert found == body
    assert decoder.ended
    assert decoded(packed, coding, 1000) == body


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_what_is_large_comes_in_pieces(
    coding: str, pack: Callable[[bytes], bytes]
) -> None:
    pieces = DECODERS[coding]().feed(pack(b"a" * 50 * PIECE))

    assert len(next(filter(None, pieces))) <= 4 * PIECE


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_the_beginning_of_a_body(coding: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(b'{"id": 1}' + bytes(range(256)) * 999)

    assert beginning(packed[:-4], coding, 9) == b'{"id": 1}'
    assert beginning(packed[:1], coding) in {b"", packed[:1]}
