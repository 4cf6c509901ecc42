"""A small HTTP client for the control socket. (`http.client` costs 20 ms of start-up, this 1.)"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from config.errors import WharfError

DEFAULT_SOCKET = "/run/wharfinger/control.sock"
TIMEOUT = 15.0
_MOST = 1 << 28  # bytes of one answer that is read whole


class NoDaemonError(WharfError):
    """The daemon cannot be spoken to."""


class RefusalError(WharfError):
    """The daemon said no. `code` is its fixed word, `status` that of HTTP."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Client:
    """One connection a request: a command has one or two."""

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self, target: str) -> Any:
        """The answer's JSON. Raises RefusalError, NoDaemonError."""
        return self.ask("GET", target)

    def post(self, target: str, body: object = None, timeout: float = TIMEOUT) -> Any:
        return self.ask("POST", target, body, timeout)

    def ask(self, method: str, target: str, body: object = None, timeout: float | None = TIMEOUT) -> Any:
        with Answer(self, method, target, body, timeout) as answer:
            return answer.json()

    def stream(self, target: str) -> Iterator[bytes]:
        """Pieces of the answer's body as they come. Raises RefusalError, NoDaemonError (also when it breaks off)."""
        with Answer(self, "GET", target, None, None) as answer:
            if answer.status >= 400:
                answer.json()
            yield from answer.pieces()

    def connect(self, kind: int, path: str, timeout: float | None) -> socket.socket:
        """Raises NoDaemonError, in supervisorctl's words."""
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.settimeout(timeout)
        try:
            for _ in range(40):
                try:
                    _connect(sock, path)
                    break
                except BlockingIOError:  # its queue of new peers is full
                    time.sleep(0.05)
            else:
                raise TimeoutError
        except OSError as error:
            sock.close()
            raise NoDaemonError(f"unix://{path} {_words(error)}") from None
        return sock


def _connect(sock: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) < 107:
        sock.connect(path)
        return
    folder = os.open(os.path.dirname(path), os.O_PATH)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)


def quoted(text: str) -> str:
    """Percent-encoded for a path or a query. (`urllib.parse` is a third of a command's start-up.)"""
    return "".join(
        chr(byte) if (byte < 128 and chr(byte).isalnum()) or byte in b"-_.~" else f"%{byte:02X}"
        for byte in os.fsencode(text)
    )


def query(**pairs: object) -> str:
    """`?a=1&b=x` of the pairs that are not None; "" of none."""
    shown = "&".join(f"{key}={quoted(str(value))}" for key, value in pairs.items() if value is not None)
    return f"?{shown}" if shown else ""


def _words(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file (is wharfingerd running?)"
    if isinstance(error, ConnectionRefusedError):
        return "refused connection (is wharfingerd running?)"
    if isinstance(error, PermissionError):
        return "permission denied (only root and members of the socket's group may connect)"
    if isinstance(error, TimeoutError):
        return "does not answer"
    return (error.strerror or str(error)).lower()


class Answer:
    """One request and its answer; a context manager that ends the connection."""

    def __init__(self, client: Client, method: str, target: str, body: object, timeout: float | None) -> None:
        self._where = f"unix://{client.path}"
        self._sock = client.connect(socket.SOCK_STREAM, client.path, TIMEOUT)
        self._buffer = bytearray()
        self._headers: dict[str, str] = {}
        payload = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {target} HTTP/1.1\r\nHost: wharfinger\r\nConnection: close\r\n"
        if payload or method == "POST":
            head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
        try:
            self._sock.sendall(head.encode() + b"\r\n" + payload)
        except OSError:
            pass  # it may have answered (busy) before it closed
        self._sock.settimeout(timeout)
        try:
            self.status = self._head()
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def json(self) -> Any:
        """Raises RefusalError for anything but success."""
        data = bytearray()
        for piece in self.pieces():
            data += piece
            if len(data) > _MOST:
                raise NoDaemonError(f"{self._where} answers without end")
        try:
            found = json.loads(data)
        except ValueError:
            raise NoDaemonError(f"{self._where} answers no JSON (status {self.status})") from None
        if self.status >= 400:
            error = found.get("error", {}) if isinstance(found, dict) else {}
            raise RefusalError(self.status, str(error.get("code", "")), str(error.get("message", self.status)))
        return found

    def pieces(self) -> Iterator[bytes]:
        if "chunked" in self._headers.get("transfer-encoding", ""):
            yield from self._chunks()
        elif "content-length" in self._headers:
            yield from self._exactly(int(self._headers["content-length"]))
        else:
            while self._buffer or self._more():
                yield self._taken(len(self._buffer))

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = int(self._line().split(b";")[0], 16)
            yield from self._exactly(size)
            self._line()
            if size == 0:
                return

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._buffer and not self._more():
                raise NoDaemonError(f"{self._where} broke off")
            piece = self._taken(min(size, len(self._buffer)))
            size -= len(piece)
            yield piece

    def _head(self) -> int:
        first = self._line()
        if not first.startswith(b"HTTP/1."):
            raise NoDaemonError(f"{self._where} is no wharfingerd")
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            self._headers[name.lower()] = value.strip().lower()
        return int(first.split(b" ")[1])

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > 65536 or not self._more():
                raise NoDaemonError(f"{self._where} broke off")
        return self._taken(end + 1).rstrip(b"\r\n")

    def _taken(self, size: int) -> bytes:
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    def _more(self) -> bool:
        try:
            data = self._sock.recv(65536)
        except TimeoutError:
            raise NoDaemonError(f"{self._where} does not answer") from None
        except OSError:
            return False
        self._buffer += data
        return bool(data)
