"""Content codings (RFC 9110, 8.4): gzip, deflate, brotli and zstd, in bounds.

A small compressed body can hold gigabytes, so a decoder's output comes in pieces and
whoever reads it may stop.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

import brotli  # type: ignore[import-untyped]  # ships no types

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BODY: Final = 1 << 20
"""Bytes of a decoded body: as many as are copied of an encoded one. A small
compressed body can hold gigabytes."""

PIECE: Final = 2**16
"""Bytes decoded at once."""

# Each coding may blow its input up to the bound, so a chain must be short.
_MAX_CODINGS: Final = 2

_WINDOW_LOG: Final = 23
"""zstd's window is 8 MB at most as a content coding (RFC 9659, 3)."""

_MAX_FRAMES: Final = 16
"""Frames of one zstd body. Some servers send a frame for each flush; each costs a
window, and thousands of empty ones would cost seconds."""

_TEXT: Final = re.compile(rb"(?:[\t\n\r\x20-\x7e]{16}|[\t\n\r\x20-\x7e]+\Z)")
_BOM: Final = b"\xef\xbb\xbf"

_MAGIC: Final = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class CodingError(Exception):
    """A body cannot be decoded; the message says why, and holds none of it."""


class Decoder(Protocol):
    """Decodes one body, whatever the pieces that it comes in."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return what these bytes decode to, in pieces of PIECE bytes or so.

        Raises CodingError for what is malformed.
        """

    @property
    def ended(self) -> bool:
        """Whether the compressed data has come to its end."""


class _Zlib:
    """Gzip, zlib or bare deflate.

    Of a gzip file with several members only the first counts: nobody sends such
    bodies, and walking through thousands of empty members would cost seconds.
    """

    def __init__(self, window: int) -> None:
        self._decoder = zlib.decompressobj(window)

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                yield self._decoder.decompress(data, PIECE)
                data = self._decoder.unconsumed_tail
        except zlib.error as error:
            raise CodingError("malformed compressed data") from error

    @property
    def ended(self) -> bool:
        return self._decoder.eof


class _Deflate:
    """Deflate in zlib's wrapper, or bare as some send it (RFC 9110, 8.4.1.2)."""

    def __init__(self) -> None:
        self._start = b""
        self._decoder: _Zlib | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._decoder is None:
            self._start += data
            if len(self._start) < 2:
                return
            # RFC 1950, 2.2: the method, and a check over both bytes. Bare deflate
            # could begin so only with a block that is stored and not the last.
            first, second = self._start[:2]
            wrapped = first & 15 == 8 and (first * 256 + second) % 31 == 0
            self._decoder = _Zlib(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
            data = self._start
        yield from self._decoder.feed(data)

    @property
    def ended(self) -> bool:
        return self._decoder is not None and self._decoder.ended


class _Brotli:
    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            piece = self._decoder.process(data, output_buffer_limit=PIECE)
            while piece:
                yield piece
                if self._decoder.is_finished():
                    break
                piece = self._decoder.process(b"", output_buffer_limit=PIECE)
        except brotli.error as error:
            raise CodingError("malformed compressed data") from error

    @property
    def ended(self) -> bool:
        return bool(self._decoder.is_finished())


class _Zstd:
    def __init__(self) -> None:
        self._decoder = _zstd_frame()
        self._frames = 1

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            while data or not (self._decoder.needs_input or self._decoder.eof):
                if self._decoder.eof:
                    self._next()
                yield self._decoder.decompress(data, PIECE)
                data = self._decoder.unused_data if self._decoder.eof else b""
        except zstd.ZstdError as error:
            raise CodingError("malformed compressed data") from error

    def _next(self) -> None:
        self._frames += 1
        if self._frames > _MAX_FRAMES:
            raise CodingError(f"over {_MAX_FRAMES} frames of compressed data")
        self._decoder = _zstd_frame()

    @property
    def ended(self) -> bool:
        return self._decoder.eof


def _zstd_frame() -> zstd.ZstdDecompressor:
    bound: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    return zstd.ZstdDecompressor(options=bound)


DECODERS: Final[Mapping[str, Callable[[], Decoder]]] = {
    "gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    "x-gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),  # RFC 9110, 8.4.1.3
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}
"""Decoders by the names of their codings."""

_BROTLI_QUALITY: Final = 4
"""As servers do it on the fly."""


class Encoder(Protocol):
    """Encodes one body that streams."""

    def encode(self, data: bytes) -> bytes:
        """Return these bytes encoded and flushed: nothing may stand still in here."""

    def end(self) -> bytes:
        """Return what ends the body."""


class _ZlibEncoder:
    def __init__(self, window: int) -> None:
        self._encoder = zlib.compressobj(wbits=window)

    def encode(self, data: bytes) -> bytes:
        return self._encoder.compress(data) + self._encoder.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._encoder.flush()


class _BrotliEncoder:
    def __init__(self) -> None:
        self._encoder = brotli.Compressor(quality=_BROTLI_QUALITY)

    def encode(self, data: bytes) -> bytes:
        return bytes(self._encoder.process(data)) + bytes(self._encoder.flush())

    def end(self) -> bytes:
        return bytes(self._encoder.finish())


class _ZstdEncoder:
    def __init__(self) -> None:
        self._encoder = zstd.ZstdCompressor()

    def encode(self, data: bytes) -> bytes:
        return self._encoder.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._encoder.flush()


ENCODERS: Final[Mapping[str, Callable[[], Encoder]]] = {
    "gzip": lambda: _ZlibEncoder(16 + zlib.MAX_WBITS),
    "x-gzip": lambda: _ZlibEncoder(16 + zlib.MAX_WBITS),
    "deflate": lambda: _ZlibEncoder(zlib.MAX_WBITS),
    "br": _BrotliEncoder,
    "zstd": _ZstdEncoder,
}
"""Encoders by the names of their codings: what is decoded can be encoded again."""


def named(said: str | None) -> list[str]:
    """Return the codings that a Content-Encoding names, the last applied last."""
    names = (each.strip() for each in (said or "").lower().split(",", 16))
    return [name for name in names if name not in {"", "identity"}]


def decoded(body: bytes, said: str | None, bound: int) -> bytes:
    """Return a body without its codings, cut off soon above ``bound`` bytes.

    ``said`` is its Content-Encoding, which content overrules: a text that was not
    encoded passes, what is gzip or zstd without being called so is decoded. Raises
    CodingError.
    """
    codings = named(said)
    if len(codings) > _MAX_CODINGS:
        raise CodingError(f"over {_MAX_CODINGS} content codings")
    for name in reversed(codings):
        if name not in DECODERS and not _is_text(body):
            raise CodingError("a content coding that is not supported")
        if name in DECODERS:
            body = _decode_unless_text(_shown(body) or name, body, bound)
    try:
        # Nothing says that it is encoded: where it is not, it is as it is.
        return _decode(_shown(body) or "", body, bound)
    except CodingError:
        return body


def beginning(body: bytes, said: str | None, length: int = 64) -> bytes:
    """Return the first bytes of a body of which only the start is there.

    As :func:`decoded`, b"" where that start does not suffice.
    """
    for name in [*reversed(named(said)[:_MAX_CODINGS]), None]:
        coding = _shown(body) or name
        if coding is None or coding not in DECODERS:
            continue
        try:
            body = next(filter(None, DECODERS[coding]().feed(body)), b"")
        except CodingError:
            continue
    return body[:length]


def _shown(body: bytes) -> str | None:
    """Return the coding that a body's first bytes show, None if they show none."""
    return next(
        (name for start, name in _MAGIC.items() if body.startswith(start)), None
    )


def _decode_unless_text(name: str, body: bytes, bound: int) -> bytes:
    try:
        return _decode(name, body, bound)
    except CodingError:
        if _is_text(body):
            return body
        raise


def _decode(name: str, body: bytes, bound: int) -> bytes:
    if name not in DECODERS:
        return body
    decoder = DECODERS[name]()
    pieces, size = [], 0
    for piece in decoder.feed(body):
        pieces.append(piece)
        size += len(piece)
        if size > bound:
            break
    else:
        if not decoder.ended:
            raise CodingError("compressed data that ends too early")
    return b"".join(pieces)


def _is_text(body: bytes) -> bool:
    """Whether a body begins as texts do; compressed data has other bytes there."""
    return _TEXT.match(body.removeprefix(_BOM)) is not None
