"""Label values that no file can break."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitor import labels

TEXT = st.text(st.characters(), max_size=400) | st.text(
    st.sampled_from('a"\\\n\r\0\x7f\u2028\ud800\udcffé😀#2'), max_size=300
)


@given(TEXT)
def test_a_cleaned_value_is_short_encodable_and_on_one_line(value: str) -> None:
    text = labels.clean(value)
    assert len(text.encode()) <= labels.MAX_BYTES
    assert labels.clean(text) == text
    assert not any(ord(c) < 32 or ord(c) == 127 for c in text)
    assert len(text.splitlines()) <= 1


def test_surrogates_become_the_replacement_character() -> None:
    assert labels.clean("a\ud800b\udcff") in ("a\ufffdb\ufffd", "a\ufffd\ufffd\ufffdb\ufffd\ufffd\ufffd")


def test_a_cut_is_between_characters() -> None:
    assert labels.clean("é" * 200) == "é" * 128
    assert labels.clean("a" + "é" * 200) == "a" + "é" * 127


def test_escapes_backslash_first() -> None:
    assert labels.escape('\\"\n') == '\\\\\\"\\n'


@given(st.lists(TEXT, max_size=12))
def test_no_two_containers_become_one(names: list[str]) -> None:
    found = labels.unique(names)
    assert found.keys() == set(names)
    assert len(set(found.values())) == len(found)
    assert all(len(value.encode()) <= labels.MAX_BYTES for value in found.values())
    assert labels.unique(reversed(names)) == found


def test_a_collision_is_numbered_in_the_order_of_the_names() -> None:
    assert labels.unique(["web\x01", "web", "web\x02", "web#2"]) == {
        "web": "web",
        "web\x01": "web#2",
        "web\x02": "web#3",
        "web#2": "web#2#2",
    }


def test_only_allowed_labels_all_of_them_and_the_first_of_two_that_collide() -> None:
    pairs, dropped = labels.allowed({"ops-team": "a", "ops_team": "b", "secret": "x"}, ["ops-team", "ops_team", "site"])
    assert pairs == (("container_label_ops_team", "a"), ("container_label_site", ""))
    assert dropped == 1
