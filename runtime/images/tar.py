"""A reader of the tar streams that layers are: POSIX ustar and pax, GNU long names, sparse files and large numbers.

Nothing is interpreted here but the format: names are bytes as they stand. Everything is bounded, and what is not
understood is an error, never garbage. Python's own tarfile strips or refuses legal content of images with its filters,
is unsafe without them, and holds a header of 300 MB in memory. Source: pax(1), "ustar Interchange Format" and
"pax Interchange Format"; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

BLOCK = 512
CHUNK = 1 << 20
MAX_HEADER = 1 << 20  # of a pax header, a long name, a sparse map
MAX_PATH = 4096
MAX_SPARSE = 65536  # pieces of one file
MAX_SIZE = 1 << 44

FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = {b"\0": FILE, b"7": FILE, **{k: k for k in (FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO)}}
_ZEROS = bytes(BLOCK)
_XATTR = b"SCHILY.xattr."


class TarError(Exception):
    """The stream is not a tar that we take; one line that says why and where."""


@dataclass(slots=True)
class Entry:
    """One member. `size`: of the file in bytes; `mtime` in nanoseconds since the epoch; `sparse`: its pieces as
    (offset, length), None for a file without holes."""

    path: bytes
    kind: bytes
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[int, int]] | None = None


class Reader:
    """Entries of one stream, in order. `read(n)` gives up to n bytes, none at its end."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = b""
        self._at = 0
        self._position = 0  # of the stream, for errors
        self._left = 0  # bytes of the present entry's data and padding
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        """The data of an entry is read with copy() before the next one is asked for; what is left is skipped."""
        pax: dict[bytes, bytes] = {}
        sparse_pairs: list[bytes] = []
        name = link = b""
        while (head := self._header()) is not None:
            kind = head[156:157]
            size = _number(head, 124, 12, self._position)
            if size > MAX_SIZE:
                raise self._wrong("a size that no file has")
            if kind in b"xgLK" and kind:
                text = self._small(size)
                if kind == b"x":
                    pax, sparse_pairs = _records(text, self._position)
                elif kind == b"g":
                    self._global |= _records(text, self._position)[0]
                elif kind == b"L":
                    name = text.rstrip(b"\0")
                else:
                    link = text.rstrip(b"\0")
                continue
            entry = self._entry(head, size, self._global | pax, name, link)
            if kind == b"S":
                entry.kind = FILE
                self._old_sparse(entry, head)
            elif any(key.startswith(b"GNU.sparse.") for key in pax):
                self._pax_sparse(entry, pax, sparse_pairs)
            yield entry
            self.skip()
            pax, sparse_pairs, name, link = {}, [], b"", b""
        if pax or name or link:
            raise self._wrong("a header without its entry at the end")

    def copy(self, entry: Entry, write: Callable[[int, bytes], None]) -> None:
        """The data of `entry`, which was given last, as write(offset, piece); holes are not written."""
        for offset, length in entry.sparse if entry.sparse is not None else ((0, entry.size),):
            at, end = offset, offset + length
            while at < end:
                piece = self.some(min(end - at, CHUNK))
                write(at, piece)
                at += len(piece)

    def some(self, most: int) -> bytes:
        """A piece of the present entry's data, at most what is left of it."""
        piece = self._some(min(most, self._left)) if self._left and most else b""
        self._left -= len(piece)
        return piece

    def skip(self) -> None:
        """Past what is left of the present entry."""
        left, self._left = self._left + self._padding, 0
        self._padding = 0
        while left:
            left -= len(self._some(min(left, CHUNK)))

    def drain(self) -> None:
        """Past the end mark to the end of the stream: the digest is of all of it."""
        self._buffer = b""
        while piece := self._read(CHUNK):
            self._position += len(piece)

    def _header(self) -> bytes | None:
        """The next header's block; None at the end mark, which is two blocks of zeros, or at the end of the stream."""
        block = self._exactly(BLOCK, at_end=True)
        if not block:
            return None
        if block == _ZEROS:
            second = self._exactly(BLOCK, at_end=True)
            if second in (b"", _ZEROS):
                return None
            raise self._wrong("one block of zeros between entries")
        told = _number(block, 148, 8, self._position)
        if told != sum(block) - sum(block[148:156]) + 8 * 32:
            raise self._wrong("a header's checksum does not fit")
        return block

    def _entry(self, head: bytes, size: int, pax: dict[bytes, bytes], name: bytes, link: bytes) -> Entry:
        kind = head[156:157]
        if kind != b"S" and kind not in _KINDS:
            raise self._wrong(f"an entry of the unknown type {kind!r}")
        where = self._position
        path = head[:100].partition(b"\0")[0]
        if head[257:263] == b"ustar\0" and head[345:346] != b"\0":
            path = head[345:500].partition(b"\0")[0] + b"/" + path
        path = pax.get(b"path") or name or path
        if kind == b"\0" and path.endswith(b"/"):  # before ustar, directories were files with a slash
            kind = DIRECTORY
        kind = _KINDS.get(kind, FILE)
        if kind == FILE:
            size = _decimal(pax, b"size", size, where)
            if size > MAX_SIZE:
                raise self._wrong("a size that no file has")
        self._left = size if kind == FILE else 0
        stored = size  # a link's or a directory's header may have a size, which POSIX says is not followed by data
        if kind in (LINK, SYMLINK, DIRECTORY, CHAR, BLOCK_DEVICE, FIFO):
            stored = 0
        self._padding = -stored % BLOCK
        major, minor = (_number(head, at, 8, where) for at in (329, 337)) if kind in (CHAR, BLOCK_DEVICE) else (0, 0)
        target = pax.get(b"linkpath") or link or head[157:257].partition(b"\0")[0]
        for text in (path, target):
            if len(text) > MAX_PATH or b"\0" in text:
                raise self._wrong("a name that is longer than 4096 bytes, or has a zero in it")
        return Entry(
            path, kind, stored,
            mode=_number(head, 100, 8, where) & 0o7777,
            uid=_decimal(pax, b"uid", _number(head, 108, 8, where), where),
            gid=_decimal(pax, b"gid", _number(head, 116, 8, where), where),
            mtime=_time(pax.get(b"mtime"), _number(head, 136, 12, where, signed=True), where),
            link=target if kind in (LINK, SYMLINK) else b"",
            major=major, minor=minor,
            xattrs={key[len(_XATTR):]: value for key, value in pax.items() if key.startswith(_XATTR)},
        )  # fmt: skip

    def _old_sparse(self, entry: Entry, head: bytes) -> None:
        """GNU's own format: four pieces in the header, 21 in each block after it."""
        pieces: list[tuple[int, int]] = []
        entry.sparse = pieces
        real = _number(head, 483, 12, self._position)
        self._pieces(pieces, head, 386, 4)
        more = head[482:483] != b"\0"
        while more:
            block = self._exactly(BLOCK)
            self._pieces(pieces, block, 0, 21)
            more = block[504:505] != b"\0"
        self._fits(entry, pieces, real)

    def _pieces(self, pieces: list[tuple[int, int]], block: bytes, at: int, most: int) -> None:
        for n in range(at, at + 24 * most, 24):
            if block[n : n + 1] == b"\0":
                return
            pieces.append((_number(block, n, 12, self._position), _number(block, n + 12, 12, self._position)))
        if len(pieces) > MAX_SPARSE:
            raise self._wrong(f"a sparse file of more than {MAX_SPARSE} pieces")

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes], pairs: list[bytes]) -> None:
        """pax's formats 0.0 and 0.1 (in the header) and 1.0 (before the data)."""
        where = self._position
        real = _decimal(pax, b"GNU.sparse.realsize", _decimal(pax, b"GNU.sparse.size", -1, where), where)
        if entry.kind != FILE or real < 0:
            raise self._wrong("a sparse file without its size")
        entry.path = pax.get(b"GNU.sparse.name") or entry.path
        if pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor", b"0") == b"0":
            numbers = self._map_before_data()
        elif b"GNU.sparse.major" in pax and pax[b"GNU.sparse.major"] != b"0":
            raise self._wrong("a sparse file of an unknown format")
        else:
            numbers = pax[b"GNU.sparse.map"].split(b",") if pax.get(b"GNU.sparse.map") else pairs
        if len(numbers) % 2 or len(numbers) > 2 * MAX_SPARSE:
            raise self._wrong("a sparse file's map is not of pairs")
        values = [_digits(text, where) for text in numbers]
        entry.sparse = list(zip(values[::2], values[1::2], strict=True))
        self._fits(entry, entry.sparse, real)

    def _map_before_data(self) -> list[bytes]:
        """Lines of decimal numbers, the first one says how many pairs follow; padded to a block."""
        text = b""
        wanted: int | None = None
        while wanted is None or text.count(b"\n") < wanted:
            if len(text) > MAX_HEADER or self._left < BLOCK:
                raise self._wrong("a sparse file's map has no end")
            text += self._exactly(BLOCK)
            self._left -= BLOCK
            if wanted is None and b"\n" in text:
                wanted = 1 + 2 * _digits(text.partition(b"\n")[0], self._position)
        return text.split(b"\n")[1:wanted]

    def _fits(self, entry: Entry, pieces: list[tuple[int, int]], real: int) -> None:
        """The pieces follow each other inside the file, and are all of the data."""
        at = 0
        for offset, length in pieces:
            if offset < at or offset + length > real:
                raise self._wrong("a sparse file's pieces do not fit")
            at = offset + length
        if sum(length for _, length in pieces) != self._left or real > MAX_SIZE:
            raise self._wrong("a sparse file's pieces are not its data")
        entry.size = real

    def _small(self, size: int) -> bytes:
        if size > MAX_HEADER:
            raise self._wrong(f"a header of {size} bytes, more than {MAX_HEADER}")
        text = self._exactly(size)
        self._exactly(-size % BLOCK)
        return text

    def _exactly(self, n: int, at_end: bool = False) -> bytes:
        at = self._at
        if len(self._buffer) - at >= n:  # most headers and small files
            self._at = at + n
            self._position += n
            return self._buffer[at : at + n]
        pieces, missing = [], n
        while missing:
            piece = self._take(missing)
            if not piece:
                if at_end and missing == n:
                    return b""
                raise self._wrong("the stream ends in the middle of an entry")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _some(self, most: int) -> bytes:
        if not (piece := self._take(most)):
            raise self._wrong("the stream ends in the middle of an entry")
        return piece

    def _take(self, most: int) -> bytes:
        if self._at >= len(self._buffer):
            self._buffer, self._at = self._read(CHUNK), 0
        piece = self._buffer[self._at : self._at + most]
        self._at += len(piece)
        self._position += len(piece)
        return piece

    def _wrong(self, why: str) -> TarError:
        return TarError(f"not a tar that is taken: {why} (byte {self._position} of the layer)")


def _number(block: bytes, at: int, length: int, where: int, signed: bool = False) -> int:
    """An octal field, or GNU's base-256 one for numbers that are too large for it."""
    text = block[at : at + length]
    if text[:1] >= b"\x80":
        value = int.from_bytes(text, "big", signed=True) if text[0] == 0xFF else int.from_bytes(text, "big")
        value = value if text[0] == 0xFF else value - (0x80 << (8 * (length - 1)))
        if (value < 0 and not signed) or abs(value) > 1 << 62:
            raise TarError(f"not a tar that is taken: a number out of range (byte {where} of the layer)")
        return value
    digits = text.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    sign = -1 if signed and digits[:1] == b"-" else 1
    digits = digits[1:] if sign < 0 else digits
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise TarError(f"not a tar that is taken: {text!r} is not a number (byte {where} of the layer)")
    return sign * int(digits, 8)


def _records(text: bytes, where: int) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The records `LENGTH KEY=VALUE\\n` of a pax header; beside them the numbers of sparse format 0.0, which repeat."""
    found: dict[bytes, bytes] = {}
    pairs: list[bytes] = []
    at = 0
    while at < len(text):
        space = text.find(b" ", at, at + 9)
        length = _digits(text[at:space], where) if space > at else 0
        record = text[space + 1 : at + length]
        key, equals, value = record[:-1].partition(b"=")
        if length < 5 or at + length > len(text) or record[-1:] != b"\n" or not equals or not key:
            if text[at:].strip(b"\0") == b"":
                break
            raise TarError(f"not a tar that is taken: a pax header is malformed (byte {where} of the layer)")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            pairs.append(value)
        found[key] = value
        at += length
    return found, pairs


def _digits(text: bytes, where: int) -> int:
    if not text.isdigit() or len(text) > 19:
        raise TarError(f"not a tar that is taken: {text[:40]!r} is not a number (byte {where} of the layer)")
    return int(text)


def _decimal(pax: dict[bytes, bytes], key: bytes, otherwise: int, where: int) -> int:
    return _digits(pax[key], where) if pax.get(key) else otherwise


def _time(text: bytes | None, otherwise: int, where: int) -> int:
    """pax writes seconds with a fraction, and a minus before 1970."""
    if not text:
        return otherwise * 1_000_000_000
    sign = -1 if text.startswith(b"-") else 1
    whole, _, fraction = text.lstrip(b"-").partition(b".")
    seconds = _digits(whole or b"0", where)
    if seconds > 1 << 40:
        raise TarError(f"not a tar that is taken: a time out of range (byte {where} of the layer)")
    return sign * (seconds * 1_000_000_000 + _digits((fraction + b"000000000")[:9], where))
