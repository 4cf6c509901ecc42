"""The page that shims count a container's output into."""

from __future__ import annotations

import mmap
import os
import struct

import pytest

from runtime.outputpage import SIZE, Output, OutputPage


def test_a_new_page_is_zero_and_shows_what_others_count() -> None:
    page = OutputPage()
    assert page.read() == Output(0, 0, 0, 0)
    with mmap.mmap(page.fd, SIZE) as other:
        other[:32] = struct.pack("<4Q", 7, 2, 1, 2**63)
    assert page.read() == Output(7, 2, 1, 2**63)
    page.close()
    page.close()


def test_nobody_can_cut_a_page_off() -> None:
    page = OutputPage()
    for size in (0, SIZE // 2, 2 * SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(page.fd, size)
    page.close()


def test_a_file_that_is_no_page_is_refused_and_closed() -> None:
    fd = os.memfd_create("small")
    with pytest.raises(OSError, match="file size"):
        OutputPage(fd)
    assert not os.path.exists(f"/proc/self/fd/{fd}")
