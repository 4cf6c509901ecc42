"""Records behave as frozen dataclasses with slots do."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from config.record import record, replace


@record
class Point:
    """Where it is."""

    x: int
    y: int = 0

    @property
    def sum(self) -> int:
        return self.x + self.y


@record
class Named:
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Twin:
    x: int
    y: int = 0


def test_values_come_by_place_by_name_and_by_default() -> None:
    assert [(p.x, p.y) for p in (Point(1, 2), Point(1), Point(y=2, x=1))] == [(1, 2), (1, 0), (1, 2)]
    assert Point(1, 2).sum == 3
    assert str(Named("a")) == "a"
    assert Point.__doc__ == "Where it is."


WRONG: list[tuple[tuple[int, ...], dict[str, int]]] = [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})]


@pytest.mark.parametrize(("args", "given"), WRONG)
def test_a_wrong_call_is_an_error_as_of_a_dataclass(args: tuple[int, ...], given: dict[str, int]) -> None:
    for kind in (Point, Twin):
        made: Any = kind
        with pytest.raises(TypeError):
            made(*args, **given)


def test_nothing_of_it_changes_and_nothing_is_added() -> None:
    point: Any = Point(1, 2)
    for name in ("x", "z"):
        with pytest.raises(AttributeError):
            setattr(point, name, 5)
    with pytest.raises(AttributeError):
        del point.x
    assert not hasattr(point, "__dict__")
    assert (point.x, point.y) == (1, 2)


def test_equal_by_kind_and_value() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(2, 1)
    other: object = Twin(1, 2)
    assert Point(1, 2) != other
    assert len({Point(1, 2), Point(1, 2), Point(2, 1)}) == 2
    assert repr(Point(1)) == "Point(x=1, y=0)"
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_copies_are_equal_and_replace_changes_what_it_names() -> None:
    point = Point(1, 2)
    assert copy.deepcopy(point) == point
    assert pickle.loads(pickle.dumps(point)) == point
    assert replace(point, y=5) == Point(1, 5)
    with pytest.raises(TypeError):
        replace(point, z=1)
