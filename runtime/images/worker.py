"""The process that unpacks one layer: `python -m runtime.images.worker`, with the blob on fd 0 and one order as JSON.

It answers with one JSON object on fd 1: what it made and both digests, or why not. It is in a jail (jail.py) before it
reads the first byte. What it says is checked by who asked (unpack.py): it has read a stranger's bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

from runtime import seccomp
from runtime.images import inflate, jail
from runtime.images.apply import Applied, Applier
from runtime.images.inflate import OPENERS, PackedError
from runtime.images.tar import Reader, TarError

READ = 256 << 10
RATIO_FREE = 64 << 20  # bytes that may come out of any few


class Source:
    """The layer's bytes, uncompressed, with both digests; more than `limit` bytes, or than `ratio` times what went
    in, is an error."""

    def __init__(self, fd: int, compression: str, limit: int, ratio: int) -> None:
        self._fd = fd
        self._limit = limit
        self._ratio = ratio
        self._plain = OPENERS[compression](self._feed)
        self.packed = hashlib.sha256()
        self.plain = hashlib.sha256()
        self.packed_size = 0
        self.size = 0

    def read(self, most: int) -> bytes:
        """At most a few MiB, none at the end."""
        piece = self._plain(most)
        self.size += len(piece)
        if self.size > self._limit:
            raise TarError(f"a layer of more than {self._limit} bytes")
        if self.size > RATIO_FREE and self.size > self._ratio * self.packed_size:
            raise TarError(f"a layer that is more than {self._ratio} times its packed size")
        self.plain.update(piece)
        return piece

    def finish(self) -> None:
        """The packed digest is of all bytes, also of those after the stream's end."""
        while self._feed():
            pass

    def _feed(self) -> bytes:
        piece = os.read(self._fd, READ)
        self.packed.update(piece)
        self.packed_size += len(piece)
        return piece


def unpack(order: dict[str, Any], root: str = "/") -> dict[str, Any]:
    """Apply the blob of fd 0 to `root`. The answer: see `_answer`."""
    source = Source(0, order["compression"], order["limit"], order["ratio"])
    reader = Reader(source.read)
    try:
        applied = Applier(reader, order["devices"], os.fsencode(root)).run()
        reader.drain()
        source.finish()
    except (TarError, PackedError) as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "a layer that needs more memory than unpacking has"}
    except RecursionError:
        return {"error": "a layer that is nested too deep"}
    except OSError as error:
        name = error.filename
        shown = os.fsdecode(name) if isinstance(name, (bytes, str)) else ""
        return {"error": f"{error.strerror} at {shown[:300]!r}", "errno": error.errno}
    return _answer(applied, source)


def _answer(applied: Applied, source: Source) -> dict[str, Any]:
    return {
        "digest": f"sha256:{source.packed.hexdigest()}",
        "diff_id": f"sha256:{source.plain.hexdigest()}",
        "packed": source.packed_size,
        "entries": applied.entries,
        "size": applied.size,
        "implicit": [os.fsdecode(path) for path in applied.implicit],
        "opaque": sorted(os.fsdecode(path) for path in applied.opaque),
        "links": [[os.fsdecode(path), os.fsdecode(target)] for path, target in applied.links],
    }


def main() -> None:
    order = json.loads(sys.argv[1])
    _, bpf, _ = seccomp.compile_filter(jail.PROFILE)
    inflate.load(order["compression"])
    try:
        jail.enter(order["root"], bpf, order["memory"], order["limit"], order["cpu"], order["devices"])
    except OSError as error:
        answer: dict[str, Any] = {"error": f"no jail to unpack in: {error.filename}: {error.strerror}"}
    else:
        answer = unpack(order)
    data = json.dumps(answer).encode()
    while data:
        data = data[os.write(1, data) :]
    os._exit(0)  # the interpreter's own end would want files that are not here


if __name__ == "__main__":
    main()
