"""Detach keys: what is typed to leave a container's terminal, and leave it running. Pure."""

from __future__ import annotations

from supervisor.cli.args import UsageError

DEFAULT = "ctrl-p,ctrl-q"
_CONTROL = "@abcdefghijklmnopqrstuvwxyz[\\]^_"  # ctrl with one of these is 0 to 31


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q`, or single characters: `ctrl-a,d`. "" is no keys at all. Raises UsageError."""
    return bytes(_key(word, text) for word in text.split(",")) if text else b""


def _key(word: str, text: str) -> int:
    lower = word.lower()
    if len(word) == 1 and 32 < ord(word) < 127:
        return ord(word)
    if len(word) == 6 and lower.startswith("ctrl-") and lower[5] in _CONTROL:
        return _CONTROL.index(lower[5])
    raise UsageError(f"--detach-keys: {text}: a list of single characters and of ctrl- with a-z @ [ \\ ] ^ _")


class Watch:
    """Looks for the keys in what is typed. What may be their beginning is held back until the next key."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the keys were typed: then nothing after them is passed on."""
        if not self._keys:
            return data, False
        out = bytearray()
        for byte in data:
            self._held += bytes((byte,))
            while not self._keys.startswith(self._held):
                out.append(self._held[0])
                self._held = self._held[1:]
            if self._held == self._keys:
                self._held = b""
                return bytes(out), True
        return bytes(out), False
