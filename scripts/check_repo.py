"""Rules of the repository that no other tool knows: `python -m scripts.check_repo`.

Sources stay under 400 lines, requirements name no index, links in the docs lead somewhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT, TEST_LIMIT = 400, 700  # lines; a table of cases reads well when it is long
LONG: dict[str, str] = {}  # path: why it is one room all the same
SOURCES = (".py", ".c", ".h", ".sh")
DATA = (".lock", ".json")  # not written by hand

INDEX_OPTION = re.compile(r"^\s*(--(extra-)?index-url|-i|--find-links|-f|--trusted-host)\b|://", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


def tracked() -> list[str]:
    """Files that git knows or would add, existing ones only."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = sorted(set(listed.stdout.decode().split("\0")) - {""})
    return [n for n in names if (ROOT / n).is_file() and not (ROOT / n).is_symlink()]


def problems(name: str, text: str) -> Iterator[str]:
    """What is wrong with one file. `name`: path from the top of the repository."""
    lines = text.count("\n")
    limit = TEST_LIMIT if name.startswith("tests/") else LIMIT
    if name.endswith(SOURCES) and lines > limit and name not in LONG:
        yield f"{name}: {lines} lines, more than {limit}: give it a second room or list it in scripts/check_repo.py"
    if name.startswith("requirements") and (found := INDEX_OPTION.search(text)):
        yield f"{name}: names an index: {found.group()!r}"
    if not name.endswith(DATA):
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith(("<<<<<<< ", ">>>>>>> ")):
                yield f"{name}:{number}: conflict marker"
    if name.endswith(".md"):
        yield from dead_links(name, text)


def dead_links(name: str, text: str) -> Iterator[str]:
    for found in LINK.finditer(text):
        target = found.group(1)
        if "://" in target or target.startswith("mailto:"):
            continue
        if not ((ROOT / name).parent / target).exists():
            yield f"{name}: link to {target}, which is not there"


def main() -> int:
    found: list[str] = []
    for name in tracked():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data:
            found += problems(name, data.decode(errors="replace"))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
