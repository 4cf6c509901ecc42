"""Compressed streams, read in pieces of bounded size: gzip by ISA-L where it is there, zstd, and plain bytes."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from types import ModuleType

Feed = Callable[[], bytes]
"""The next packed bytes, none at the end."""
Plain = Callable[[int], bytes]
"""At most so many bytes, none at the end."""

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_WINDOW_LOG_MAX = 27  # 128 MiB: what `zstd --ultra` writes, and the most that a stranger may make us hold


class PackedError(Exception):
    """The stream is not what it should be; one line that says why."""


def compression_of(start: bytes) -> str:
    """`none`, `gzip` or `zstd`, by the first bytes of a file."""
    if start.startswith(GZIP_MAGIC):
        return "gzip"
    return "zstd" if start.startswith(ZSTD_MAGIC) else "none"


def open_plain(feed: Feed) -> Plain:
    rest = b""

    def read(most: int) -> bytes:
        nonlocal rest
        piece = rest or feed()
        rest = piece[most:]
        return piece[:most]

    return read


def open_gzip(feed: Feed) -> Plain:
    """Members may follow each other, and zeros fill up."""
    engine = _gzip_engine()
    state = engine.decompressobj(wbits=31)
    tail = b""
    started = False

    def read(most: int) -> bytes:
        nonlocal state, tail, started
        try:
            while True:
                if state.eof:
                    tail = state.unused_data.lstrip(b"\0") or feed().lstrip(b"\0")
                    state = engine.decompressobj(wbits=31)
                    started = False
                if not (piece := tail or feed()):
                    if started:
                        raise PackedError("a gzip stream that is cut off")
                    return b""
                started = True
                plain = state.decompress(piece, most)
                tail = state.unconsumed_tail
                if plain:
                    return bytes(plain)
        except (zlib.error, engine.error) as error:
            raise PackedError(f"not gzip: {error}") from None

    return read


def open_zstd(feed: Feed) -> Plain:
    """Frames may follow each other."""
    engine = _zstd_engine()
    options = {engine.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    state = engine.ZstdDecompressor(options=options)
    started = False

    def read(most: int) -> bytes:
        nonlocal state, started
        try:
            while True:
                piece = b""
                if state.eof:
                    piece = state.unused_data
                    state = engine.ZstdDecompressor(options=options)
                    started = False
                if not piece and state.needs_input and not (piece := feed()):
                    if started:
                        raise PackedError("a zstd stream that is cut off")
                    return b""
                started = True
                if plain := state.decompress(piece, most):
                    return bytes(plain)
        except engine.ZstdError as error:
            raise PackedError(f"not zstd: {error}") from None

    return read


OPENERS: dict[str, Callable[[Feed], Plain]] = {"none": open_plain, "gzip": open_gzip, "zstd": open_zstd}


def load(compression: str) -> None:
    """Its library, before a jail takes the files away."""
    if compression == "gzip":
        _gzip_engine()
    elif compression == "zstd":
        _zstd_engine()


def _gzip_engine() -> ModuleType:
    try:
        from isal import isal_zlib  # half of zlib's time
    except ImportError:
        return zlib
    return isal_zlib


def _zstd_engine() -> ModuleType:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
