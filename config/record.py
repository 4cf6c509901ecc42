"""Frozen classes with slots, as `dataclass(frozen=True, slots=True)` has them, for programs that live for a moment.

`dataclasses` takes 10 ms to import and half a millisecond for each class, which is most of what `wharf-oci` would do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """The class with its annotated names as slots; positional or by keyword, values of the class are defaults."""
    names = tuple(cls.__annotations__)  # no record has a base
    body = {key: value for key, value in cls.__dict__.items() if key not in ("__dict__", "__weakref__")}
    defaults = {name: body.pop(name) for name in names if name in body}
    own: dict[str, Any] = {"__slots__": names, "__match_args__": names, "__qualname__": cls.__qualname__}
    made: Any = type(cls.__name__, (), {**_METHODS, **body, **own})
    made.__init__ = _init(cls.__name__, names, defaults, [made.__dict__[name].__set__ for name in names])
    result: type[T] = made
    return result


def replace(one: T, **changes: Any) -> T:
    """Another record, with these values changed."""
    return type(one)(**{**dict(zip(one.__slots__, _values(one), strict=True)), **changes})  # type: ignore[attr-defined]


def _init(
    kind: str, names: Sequence[str], defaults: Mapping[str, Any], setters: Sequence[Callable[[Any, Any], None]]
) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **given: Any) -> None:  # noqa: N807
        values: Sequence[Any] = args
        if given or len(args) != len(names):
            values = _complete(kind, names, defaults, args, given)
        for put, value in zip(setters, values, strict=True):
            put(self, value)

    return __init__


def _complete(
    kind: str, names: Sequence[str], defaults: Mapping[str, Any], args: Sequence[Any], given: Mapping[str, Any]
) -> list[Any]:
    placed = dict(zip(names, args, strict=False))
    wrong = [name for name in given if name not in names or name in placed]
    if len(args) > len(names) or wrong:
        raise TypeError(f"{kind} takes {', '.join(names)}; given {len(args)} and {', '.join(given)}")
    values = {**defaults, **placed, **given}
    if missing := [name for name in names if name not in values]:
        raise TypeError(f"{kind} needs {', '.join(missing)}")
    return [values[name] for name in names]


def _values(one: Any) -> tuple[Any, ...]:
    return tuple([getattr(one, name) for name in one.__slots__])


def _eq(one: Any, other: object) -> Any:
    return _values(one) == _values(other) if type(other) is type(one) else NotImplemented


def _hash(one: Any) -> int:
    return hash(_values(one))


def _repr(one: Any) -> str:
    return f"{type(one).__qualname__}({', '.join(f'{name}={getattr(one, name)!r}' for name in one.__slots__)})"


def _refuse(one: Any, name: str, *_: Any) -> NoReturn:
    raise AttributeError(f"{type(one).__qualname__}.{name} cannot be changed")


def _reduce(one: Any) -> tuple[Any, ...]:
    return type(one), _values(one)


_METHODS: dict[str, Any] = {
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
    "__reduce__": _reduce,
}
