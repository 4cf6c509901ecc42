"""The table of transitions, and the pictures of docs/lifecycle.md."""

from __future__ import annotations

from pathlib import Path

from supervisor.lifecycle import diagram
from supervisor.lifecycle.facts import Phase
from supervisor.lifecycle.step import TABLE
from tests.unit.lifecycle.world import SITUATIONS, events

DOCUMENT = Path(__file__).parents[3] / "docs/lifecycle.md"


def test_the_document_is_in_step() -> None:
    """Drawn anew by: python -c "from pathlib import Path; from supervisor.lifecycle.diagram import drawn; p =
    Path('docs/lifecycle.md'); p.write_text(drawn(p.read_text()))"."""
    text = DOCUMENT.read_text()
    assert text.count("<!-- drawn: ") == 2
    assert diagram.drawn(text) == text


def test_the_picture_is_drawn_from_the_table() -> None:
    assert "    BACKOFF --> STARTING: start, restart, new definition, time" in diagram.mermaid()
    assert "| Tick |  | RUNNING |  | STARTING |  |  |  |  |" in diagram.table()


def test_the_table_names_known_events_and_phases_that_the_handlers_look_at() -> None:
    names = {kind.__name__: kind for kind in TABLE}
    for event, before in diagram.LEADS:
        assert TABLE[names[event]][before].__name__ != "ignore"


def test_no_pair_leads_where_the_table_does_not() -> None:
    for make in SITUATIONS.values():
        for name in events(make().s):
            life = make()
            before = life.phase
            event = events(life.s)[name]
            life.tell(event, 1.0)
            known = before not in (Phase.PAUSED, Phase.PULLING)
            if known and life.phase is not before:
                assert life.phase in diagram.LEADS[type(event).__name__, before]
