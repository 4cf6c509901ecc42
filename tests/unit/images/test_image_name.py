"""Names of images, as Docker's users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import DefinitionError
from runtime.images.reference import parse_reference

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("alpine", "docker.io/library/alpine:latest", "alpine"),
        ("alpine:3.22", "docker.io/library/alpine:3.22", "alpine:3.22"),
        ("shop/web", "docker.io/shop/web:latest", "shop/web"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine"),
        ("index.docker.io/a/b:1", "docker.io/a/b:1", "a/b:1"),
        ("localhost/web", "localhost/web:latest", "localhost/web"),
        ("registry.local:5000/a/b/c:v1", "registry.local:5000/a/b/c:v1", "registry.local:5000/a/b/c:v1"),
        ("host:5000/a", "host:5000/a:latest", "host:5000/a"),
        ("[::1]:5000/a:x", "[::1]:5000/a:x", "[::1]:5000/a:x"),
        (f"a@{D}", f"docker.io/library/a@{D}", f"a@{D}"),
        (f"a:1@{D}", f"docker.io/library/a:1@{D}", f"a:1@{D}"),
        ("a-b__c/e.f", "docker.io/a-b__c/e.f:latest", "a-b__c/e.f"),
    ],
)
def test_a_name_means_one_repository_and_one_tag_or_digest(text: str, canonical: str, familiar: str) -> None:
    found = parse_reference(text)
    assert (str(found), found.familiar) == (canonical, familiar)
    assert str(parse_reference(str(found))) == canonical
    assert str(parse_reference(found.familiar)) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "Alpine", "a:", "a:-x", "a@sha256:12", "a@md5:" + "a" * 64, "a//b", "/a", "a/", "a b", "-a", "a..b", "a\n",
     "http://h/a", "h.x:port/a", "x" * 300, "a:" + "t" * 129, "../a", "a/../b", "a@" + D.upper()],
)  # fmt: skip
def test_what_is_no_name_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(DefinitionError) as told:
        parse_reference(text)
    assert "\n" not in str(told.value)


@given(st.text(max_size=60))
def test_any_text_is_a_name_that_comes_back_or_an_error(text: str) -> None:
    try:
        found = parse_reference(text)
    except DefinitionError:
        return
    assert parse_reference(str(found)) == found
