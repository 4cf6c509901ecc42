"""The page of `top`: what is shown, where the mark stands, and what a key does. Knows no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor.cli.curves import BLOCKS, PLAIN, can_draw, human, rates, spark
from supervisor.cli.usage import SORTS, One, ordered, table

DETAIL = 4  # lines below the table
MARK, HEAD = "\2", "\1"  # styles of a line, for the screen


class Top:
    """`titled`: with a title, a chosen row and its curves; else the table alone, as `stats` shows it."""

    def __init__(self, sort: str, titled: bool = True) -> None:
        self.sort = sort
        self.titled = titled
        self.rows: Sequence[One] = ()
        self.recording: Mapping[str, Any] = {}
        self.trouble = ""
        self._chosen = ""
        self._first = 0
        self._page = 1
        self._marks = BLOCKS if can_draw() else PLAIN

    def chosen(self) -> str:
        """Name of the row with the mark: it stays with its container when the order changes."""
        names = [one["name"] for one in ordered(self.rows, self.sort)]
        if self._chosen not in names:
            self._chosen = names[0] if names else ""
        return self._chosen

    def key(self, key: str) -> bool:
        """Whether another container is chosen now."""
        if key in SORTS:
            self.sort = key
            return False
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -self._page, "page down": self._page}
        names = [one["name"] for one in ordered(self.rows, self.sort)]
        if not names or (key not in steps and key not in ("home", "end")):
            return False
        before = self.chosen()
        at = names.index(before) + steps.get(key, 0)
        at = 0 if key == "home" else len(names) - 1 if key == "end" else at
        self._chosen = names[min(max(at, 0), len(names) - 1)]
        return self._chosen != before

    def lines(self, columns: int, rows: int) -> list[str]:
        """For a terminal of this size."""
        shown = ordered(self.rows, self.sort)
        head, *body = table(shown)
        if not self.titled:
            return [HEAD + head, *body][:rows]
        self._page = max(1, rows - 3 - DETAIL)
        chosen = self.chosen()
        at = next((n for n, one in enumerate(shown) if one["name"] == chosen), 0)
        self._first = min(max(self._first, at - self._page + 1), at, max(0, len(shown) - self._page))
        body = [MARK + line if n == at else line for n, line in enumerate(body)]
        body = body[self._first : self._first + self._page]
        return [self._title(columns), HEAD + head, *body, *self._detail(columns)][:rows]

    def _title(self, columns: int) -> str:
        if self.trouble:
            return f"{self.trouble}; trying again"
        up = [one for one in self.rows if one["memory"] is not None]
        cpu = sum(one["cpu"] or 0.0 for one in up)
        memory = sum(one["memory"] for one in up)
        words = f"{time.strftime('%H:%M:%S')}  {len(up)} of {len(self.rows)} up"
        words = f"{words}  CPU {_percent(cpu)}  memory {human(memory)}"
        keys = f"by {SORTS[self.sort][0]}  q quit  " + " ".join(f"{key} {word}" for key, (word, _) in SORTS.items())
        return f"{words}  {keys}"[:columns]

    def _detail(self, columns: int) -> list[str]:
        times = self.recording.get("times") or ()
        if len(times) < 2:
            return []
        one = next((one for one in self.rows if one["name"] == self._chosen), {})
        width = max(10, min(60, columns - 36))
        cpu = rates(times, self.recording.get("cpu_usec") or ())
        pressure = rates(times, self.recording.get("memory_some_usec") or ())
        return [
            "",
            self._curve("cpu", [None if v is None else v / 1e6 for v in cpu], one.get("cpu_limit"), width, _percent),
            self._curve("memory", self.recording.get("memory") or (), one.get("memory_limit"), width, human),
            self._curve("memory pressure", [None if v is None else v / 1e6 for v in pressure], 1.0, width, _percent),
        ]

    def _curve(self, name: str, values: Sequence[float | None], top: float | None, width: int, words: Any) -> str:
        """Up to the limit where there is one, else up to the largest value."""
        known = [value for value in values if value is not None]
        drawn = spark(values, self._marks, top if top and max(known, default=0) <= top else None, width)
        now = words(known[-1]) if known else "-"
        return f"{name:<16}{drawn:<{width}}  {now}" + (f" of {words(top)}" if top else "")


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
