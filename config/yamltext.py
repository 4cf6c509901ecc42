"""Text of a definition file to mappings, lists and words, with the place of each. A safe part of YAML 1.2.

Only parser events are used, never ruamel's composer or constructor: the limits below hold while the text is read, no
alias can multiply it, and no tag can build an object. A word keeps its spelling (`fields.Plain`): the field that it
is for decides what it means. So `no` stays `no`, `2122:22` is no sum of minutes, and `1.10` is no `1.1`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.scanner import Scanner

from config.fields import Path, Plain, quote

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 10_000

Spot = tuple[int, int]
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
# What a broken parser may raise beside its own errors, for any text.
_PARSER_FAULTS = (ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, RuntimeError)


class TextError(Exception):
    """The text is not a definition file; `line` and `column` from 1, or 0."""

    def __init__(self, what: str, line: int = 0, column: int = 0) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.column = column


@dataclass(slots=True)
class Tree:
    """A read document: its value, and where each key (or list item) and each value begins."""

    value: Any = None
    keys: dict[Path, Spot] = field(default_factory=dict)
    values: dict[Path, Spot] = field(default_factory=dict)
    faults: list[tuple[Path, Spot, str]] = field(default_factory=list)

    def spot(self, path: Path, *, on_key: bool = False) -> Spot:
        """Where `path` is, or the nearest thing around it that the text has.

        A word is its own place; a mapping or list is pointed at by its key, as is a key that is missing in it.
        """
        real, value = self._follow(path)
        if on_key or isinstance(value, dict | list):
            return self.keys.get(real) or self.values.get(real) or (1, 1)
        return self.values.get(real) or (1, 1)

    def _follow(self, path: Path) -> tuple[Path, Any]:
        """As much of `path` as the text has; a word that is an item of a list counts as that item."""
        real: Path = ()
        value = self.value
        for part in path:
            if isinstance(value, list):
                index = part if isinstance(part, int) else next((i for i, v in enumerate(value) if v == part), -1)
                if not 0 <= index < len(value):
                    break
                real, value = (*real, index), value[index]
            elif isinstance(value, dict) and part in value:
                real, value = (*real, part), value[part]
            else:
                break
        return real, value


def decode(data: bytes) -> str:
    """UTF-8 text without a byte order mark. Raises TextError."""
    if not data.strip(b" \t\r\n"):
        raise TextError("is empty; a file without containers says `containers: {}`")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise TextError("is UTF-16; save it as UTF-8")
    if len(data) > MAX_BYTES:
        raise TextError(f"is larger than {MAX_BYTES // 1024} KiB")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        line, column = _spot_of(data[: e.start].decode("utf-8", "replace"))
        raise TextError(f"is not UTF-8: byte 0x{data[e.start]:02x}", line, column) from None
    for i, c in enumerate(text):
        if (c < " " and c not in "\t\n\r") or c in "\x7f\ufeff":
            line, column = _spot_of(text[:i])
            what = "a NUL byte" if c == "\0" else f"a control character (U+{ord(c):04X})"
            raise TextError(f"{what} in the text", line, column)
    return text


def _spot_of(before: str) -> Spot:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def read(data: bytes) -> Tree:
    """The document of `data`. Raises TextError for what is not one plain YAML document, and nothing else."""
    text = decode(data)
    try:
        return _Reader(text).document()
    except MarkedYAMLError as e:
        raise _in_plain_words(e) from None
    except YAMLError as e:
        raise TextError(" ".join(str(e).split())[:200] or "not YAML") from None
    except MemoryError:
        raise TextError("needs more memory to read than there is") from None
    except _PARSER_FAULTS as e:
        raise TextError(f"not YAML ({type(e).__name__})") from None


def _in_plain_words(e: MarkedYAMLError) -> TextError:
    what = " ".join(str(e.problem or e.context or "not YAML").split())
    context = str(e.context or "")
    mark = e.problem_mark or e.context_mark
    if "unexpected end of stream" in what and "quoted" in context:
        what, mark = "the quote that opens here is not closed", e.context_mark
    elif "<stream end>" in what and "flow" in context:
        what, mark = "the bracket that opens here is not closed", e.context_mark
    elif "cannot start any token" in what and "'\\t'" in what:
        what = "a tab cannot indent; use spaces"
    elif "cannot start any token" in what:
        what = f"{what.split(' that ')[0].removeprefix('found ')} cannot start a word; put it in quotes"
    elif "mapping values are not allowed" in what:
        what = 'a ": " does not belong here; put the text in quotes, or mend the indentation'
    elif "expected <block end>" in what:
        what = "the indentation does not fit what is above"
    elif "expected '<document start>'" in what:
        what = "text after the end of the document"
    elif "could not find expected ':'" in what:
        what, mark = 'a key needs ":" and a value', e.context_mark or mark
    if mark is None:
        return TextError(what)
    return TextError(what, mark.line + 1, mark.column + 1)


class _Scanner(Scanner):
    """Counts open brackets while it scans: ruamel looks far ahead at each one that may start a key."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:  # noqa: N803 ruamel's name
        if len(self.flow_context) > MAX_DEPTH:
            mark = self.reader.get_mark()
            raise TextError(f"nested deeper than {MAX_DEPTH} levels", mark.line + 1, mark.column + 1)
        super().fetch_flow_collection_start(TokenClass, to_push)


class _Reader:
    """Builds the tree from events with a stack of its own: depth costs no recursion."""

    def __init__(self, text: str) -> None:
        self.tree = Tree()
        self.nodes = 0
        yaml = YAML(typ="safe", pure=True)
        yaml.Scanner = _Scanner
        self.events: Iterator[Any] = yaml.parse(text)

    def document(self) -> Tree:
        documents = 0
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                self._start(event, documents)
            elif isinstance(event, StreamEndEvent):
                break
            elif isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent | AliasEvent):
                self.tree.value = self._node(event)
        if not documents:
            raise TextError("has only comments; a file without containers says `containers: {}`")
        return self.tree

    def _start(self, event: Any, documents: int) -> None:
        if documents > 1:
            raise _at("a second document; one file is one document", event)
        if event.version and tuple(event.version) != (1, 2):
            raise _at("only YAML 1.2 is read", event)
        if event.tags:
            raise _at("tag directives are not supported", event)

    def _node(self, first: Any) -> Any:
        """The value that starts with `first`, all of its events eaten."""
        root: list[Any] = []
        stack = [_Frame((), root, (0, 0))]
        event = first
        while True:
            self._step(stack, event)
            if len(stack) == 1:
                return root[0]
            event = next(self.events)

    def _step(self, stack: list[_Frame], event: Any) -> None:
        frame = stack[-1]
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            stack.pop()
            return
        self._check(event, len(stack))
        spot = (event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(frame.target, dict) and frame.key is None:
            self._key(frame, event, spot)
            return
        path = frame.place(len(stack) == 1)
        self.tree.values[path] = spot
        value: Any
        if isinstance(event, ScalarEvent):
            value = _scalar(event)
        else:
            value = {} if isinstance(event, MappingStartEvent) else []
            stack.append(_Frame(path, value, spot))
        frame.put(value)

    def _check(self, event: Any, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _at(f"more than {MAX_NODES} keys and values", event)
        if isinstance(event, AliasEvent):
            raise _at(f"aliases (*{event.anchor}) are not supported; write it out", event)
        if event.anchor:
            raise _at(f"anchors (&{event.anchor}) are not supported; write it out", event)
        if event.tag:
            raise _at(f"tags ({_tag(event)}) are not supported", event)
        if depth > MAX_DEPTH and not isinstance(event, ScalarEvent):
            raise _at(f"nested deeper than {MAX_DEPTH} levels", event)

    def _key(self, frame: _Frame, event: Any, spot: Spot) -> None:
        if not isinstance(event, ScalarEvent):
            raise _at("a key must be a word, not a list or a mapping", event)
        key = str(event.value)
        if key == "<<" and event.style is None:
            raise _at("merge keys (<<) are not supported; write it out", event)
        if not key or (event.style is None and key in _NULLS):
            raise _at("a key is empty", event)
        path = (*frame.path, key)
        if path in self.tree.keys:
            first = self.tree.keys[path]
            self.tree.faults.append((path, spot, f"{quote(key)} is given twice, first at {first[0]}:{first[1]}"))
        else:
            self.tree.keys[path] = spot
        frame.key = key


class _Frame:
    """A mapping or list that is being filled."""

    __slots__ = ("key", "path", "spot", "target")

    def __init__(self, path: Path, target: Any, spot: Spot) -> None:
        self.path = path
        self.target = target
        self.spot = spot
        self.key: str | None = None

    def place(self, root: bool) -> Path:
        if root:
            return ()
        return (*self.path, self.key if self.key is not None else len(self.target))

    def put(self, value: Any) -> None:
        if isinstance(self.target, dict):
            self.target.setdefault(self.key, value)
            self.key = None
        else:
            self.target.append(value)


def _scalar(event: Any) -> str | None:
    if event.style is not None:
        return str(event.value)
    return None if event.value in _NULLS else Plain(event.value)


def _tag(event: Any) -> str:
    return str(event.tag)[:60]


def _at(what: str, event: Any) -> TextError:
    return TextError(what, event.start_mark.line + 1, event.start_mark.column + 1)
