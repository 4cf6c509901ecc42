"""All containers of this host: their keepers, and how definitions and dependencies reach them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import anyio
import anyio.lowlevel
from anyio import CancelScope, to_thread
from anyio.abc import TaskGroup

from config.changes import diff
from config.model import Container
from runtime.cgroups import Tree
from supervisor import adopt
from supervisor.definitions import Definitions
from supervisor.engine import Hands
from supervisor.keeper import Keeper
from supervisor.lifecycle import facts
from supervisor.lifecycle.facts import State
from supervisor.lifecycle.order import dependency_unmet
from supervisor.lifecycle.step import initial
from supervisor.ports import Record
from supervisor.shared import Shared, Tally

log = logging.getLogger("wharfinger.fleet")

SILENT_RETRY = 5.0


@dataclass(slots=True)
class Member:
    """One container: its keeper (decides), its hands (act), and where its definition stands."""

    keeper: Keeper
    hands: Hands
    booted: bool = True  # nothing is stored of it in this boot
    adopted: bool = False  # the first look at what runs is over

    @property
    def state(self) -> State:
        return self.keeper.state


@dataclass(frozen=True, slots=True)
class Applied:
    added: tuple[str, ...] = ()
    live: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class Fleet:
    """The members by name. Only the daemon's task group runs them."""

    def __init__(self, shared: Shared, tasks: TaskGroup, host_id: str, records: Mapping[str, Record]) -> None:
        self.members: dict[str, Member] = {}
        self._shared = shared
        self._tasks = tasks
        self._host_id = host_id
        self._records = dict(records)
        self._told_unmet: dict[str, tuple[str, ...]] = {}
        self.found: Counter[str] = Counter()  # by the first look: running, taken_over, ended, lost

    # -- members --------------------------------------------------------------------------------

    def add(self, definition: Container, file: str) -> Member:
        """A keeper for a definition, in state UNKNOWN until `look` has said what runs."""
        name = definition.name
        record = self._records.pop(name, None)  # once: a name that is declared again later begins anew
        state = initial(definition, f"{self._host_id}/{name}", record.saved if record else None)
        tally = (
            Tally(dict(record.restarts), dict(record.ends), dict(record.oom_kills), record.created)
            if record
            else Tally()
        )
        hands = Hands(name, self._shared, lambda event: keeper.tell(event), lambda: keeper.state.phase, tally)
        hands.definition, hands.file = definition, file
        if record is not None:
            hands.last_end_wall = next((stored.wall for stored in self._shared.store.ends(name, 1)), None)
        keeper = Keeper(state, hands, self._shared.clock, self._changed, self._shared.watch)
        member = Member(keeper, hands, booted=record is None or record.boot_id != self._shared.boot_id)
        self.members[name] = member
        self._tasks.start_soon(self._keep, member)
        return member

    async def _keep(self, member: Member) -> None:
        await member.keeper.run()
        member.hands.release()
        name = member.state.name
        if self.members.get(name) is member:
            del self.members[name]
            self._told_unmet.pop(name, None)
            self._dependants_of(name)

    async def look(self, member: Member, leaves: Iterable[int], together: anyio.CapacityLimiter | None = None) -> None:
        """Find what runs of it, and tell the core. A shim that does not answer leaves it UNKNOWN and is asked again."""
        shared, name = self._shared, member.state.name
        while True:
            async with together or nullcontext():
                found = await adopt.find(
                    shared.launcher, name, leaves, shared.boot_id, shared.clock.boot(), member.state.definition
                )
            for line in found.trouble:
                log.warning('container=%s adoption="%s"', name, line)
            if not found.silent:
                break
            member.hands.problem = found.trouble[-1]
            await anyio.sleep(SILENT_RETRY)
        member.hands.problem = ""
        self._tell_unmet(member)
        self._count_found(found)
        open_runs = shared.journal.open_runs(name)
        if found.shim is not None:
            shared.journal.found_started(member.state, found.shim.generation, found.shim.started, found.shim.pid)
            if found.definition is not None and found.definition.digest != member.state.definition.digest:
                # It was changed while no daemon watched: what runs is the old one.
                await self._adopt(member, found, found.definition)
                self._redefine(member, member.hands.definition or found.definition, found.definition)
            else:
                await self._adopt(member, found, member.state.definition)
        else:
            end = _unrecorded(found.end, member.state)
            if end is not None and end.started is not None:
                shared.journal.found_started(member.state, end.generation, end.started, None)
            member.keeper.tell(facts.Absent(end, member.booted))
            if end is not None:  # its record is all there is of it until the core has it stored; then the core cleans
                found.stale = [generation for generation in found.stale if generation != end.generation]
        for generation in found.stale:
            with CancelScope(shield=True):
                await to_thread.run_sync(shared.launcher.clean, name, generation)
        for generation, said in open_runs.items():
            if "exit" in said and (found.shim is None or found.shim.generation != generation):
                shared.journal.cleaned(name, generation, member.state.phase)
        member.adopted = True

    def _count_found(self, found: adopt.Found) -> None:
        if found.shim is not None:
            self.found["running" if found.taken is None else "taken_over"] += 1
        elif found.end is not None:
            self.found["lost" if found.end.source is facts.Source.LOST else "ended"] += 1

    async def take_in_undeclared(
        self, names: Iterable[str], leaves: Mapping[str, Iterable[int]], definitions: Definitions
    ) -> None:
        """Runs that no definition declares now. Of a bad file: kept, by the definition that they were started with.
        Else the definition is gone: they are stopped as if it had been removed just now."""
        shared = self._shared
        for name in names:
            found = await adopt.find(shared.launcher, name, leaves.get(name, ()), shared.boot_id, shared.clock.boot())
            if found.definition is None or (found.shim is None and found.end is None):
                await self._sweep(found)
                continue
            keep = found.shim is not None and definitions.is_bad(found.file)
            if found.shim is not None:
                found.shim.close()
            member = self.add(found.definition, found.file)
            if keep:
                definitions.last_good(found.definition, found.file)
            await self.look(member, leaves.get(name, ()))
            if not keep:
                member.keeper.tell(facts.Removed())

    async def _sweep(self, found: adopt.Found) -> None:
        """Leftovers that nobody can speak for: ours by their place in our cgroup, so they end."""
        launcher = self._shared.launcher
        log.warning("container=%s unknown leftovers are removed", found.name)
        if found.shim is not None:
            await to_thread.run_sync(launcher.tree.kill, found.name, None)
            found.shim.close()
            found.stale.append(found.shim.generation)
        for generation in found.stale:
            await to_thread.run_sync(launcher.clean, found.name, generation)
        await to_thread.run_sync(launcher.forget, found.name)

    async def _adopt(self, member: Member, found: adopt.Found, definition: Container) -> None:
        shim = found.shim
        assert shim is not None
        await to_thread.run_sync(self._shared.launcher.adopt, definition)
        if found.taken is None:
            await self._shared.launcher.recall_page(member.state.name, shim)
        member.hands.hold(shim)
        member.keeper.tell(facts.Adopted(shim.generation, shim.pid, shim.started))
        if found.taken is not None:
            member.hands.care.losses += 1
            member.hands.care.taken(shim.generation, found.taken)

    # -- definitions ----------------------------------------------------------------------------

    def plan(self, wanted: Mapping[str, Container]) -> Applied:
        """What `apply` would do; changes nothing."""
        added = tuple(n for n in wanted if n not in self.members or self.members[n].state.removed)
        kinds = {n: self._difference(n, wanted[n]) for n in wanted if n not in added}
        removed = tuple(n for n, m in self.members.items() if n not in wanted and not m.state.removed)
        return Applied(
            added,
            tuple(n for n, kind in kinds.items() if kind == "live"),
            tuple(n for n, kind in kinds.items() if kind == "restart"),
            removed,
        )

    def apply(self, wanted: Mapping[str, Container], files: Mapping[str, str]) -> Applied:
        """Bring the members to the definitions. A name that is still being removed is added once it is gone."""
        planned = self.plan(wanted)
        for name in planned.added:
            if name in self.members:
                self._tasks.start_soon(self._add_when_gone, name, wanted[name], files.get(name, ""))
            else:
                self._start_new(wanted[name], files.get(name, ""))
        for name in (*planned.live, *planned.restarted):
            member = self.members[name]
            self._redefine(member, wanted[name], member.hands.definition or wanted[name])
        for name in planned.removed:
            self.members[name].keeper.tell(facts.Removed())
        for name, member in self.members.items():
            member.hands.file = files.get(name, member.hands.file)
            self._tell_unmet(member)
        return planned

    def _start_new(self, definition: Container, file: str) -> None:
        member = self.add(definition, file)
        self._tasks.start_soon(self.look, member, leaves_of(self._shared.launcher.tree).get(definition.name, ()))

    async def _add_when_gone(self, name: str, definition: Container, file: str) -> None:
        while name in self.members:
            await self.members[name].keeper.wait_for(lambda state: state.done, 60)
            await anyio.lowlevel.checkpoint()
        self._start_new(definition, file)

    def _difference(self, name: str, new: Container) -> str:
        old = self.members[name].hands.definition
        return diff(old, new).kind if old is not None else "restart"

    def _redefine(self, member: Member, new: Container, old: Container) -> None:
        change = diff(old, new)
        if change.kind == "same":
            return
        member.hands.definition = new
        self._told_unmet.pop(new.name, None)
        self._tell_unmet(member)  # before it: what it begins waits for them
        member.keeper.tell(facts.Redefined(new, change.kind == "restart", change.fields))

    # -- dependencies ---------------------------------------------------------------------------

    def states(self) -> dict[str, State]:
        return {name: member.state for name, member in self.members.items()}

    def _changed(self, before: State, after: State) -> None:
        if (before.phase, before.health, before.last_end) != (after.phase, after.health, after.last_end):
            self._dependants_of(after.name)

    def _dependants_of(self, name: str) -> None:
        for member in self.members.values():
            if name in member.state.definition.depends_on:
                self._tell_unmet(member)

    def _tell_unmet(self, member: Member) -> None:
        definition = member.hands.definition
        if definition is None or not (definition.depends_on or member.state.unmet):
            return
        unmet = dependency_unmet(definition, self.states())
        if unmet != self._told_unmet.get(definition.name):
            self._told_unmet[definition.name] = unmet
            member.keeper.tell(facts.Dependencies(unmet))


def leaves_of(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Generations that have a leaf cgroup, by name: who runs in them or not is for `look` to find out."""
    return {found.name: found.generations for found in tree.list_existing()}


def _unrecorded(end: facts.End | None, state: State) -> facts.End | None:
    """An end whose generation is recorded already is no news (I5)."""
    last = state.last_end
    if end is None or (last is not None and last.generation >= end.generation):
        return None
    return end
