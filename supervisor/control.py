"""What the API may ask: the daemon's side of `ports.Control`. Every call is bounded; nothing here decides."""

from __future__ import annotations

import itertools
import signal as signals
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import anyio

from config.errors import GoneError, HostError, RefusedError, WharfError
from runtime.orphan import has_ended
from runtime.plan import compile_exec
from runtime.shim import Exec, Shim
from supervisor import stream
from supervisor.definitions import Definitions
from supervisor.fleet import Applied, Fleet, Member
from supervisor.lifecycle import facts
from supervisor.lifecycle.facts import Phase, State
from supervisor.lifecycle.history import Said
from supervisor.lifecycle.settled import is_stuck
from supervisor.lifecycle.why import explain
from supervisor.ports import Decision, Outcome, Query, Snapshot
from supervisor.stats import Stats
from supervisor.topics import BESIDE_THE_CHAIN

ANSWER_LIMIT = 15.0
CHAIN = 12  # events that `why` shows
HANGUP_GRACE = 1.0  # between a terminal's hang-up and the kill of its command
RUNNING = frozenset({Phase.RUNNING, Phase.PAUSED})
DOWN = frozenset({Phase.STOPPED, Phase.EXITED, Phase.FATAL})


class Daemon:
    """Implements `ports.Control` over the fleet."""

    def __init__(
        self,
        fleet: Fleet,
        definitions: Definitions,
        events: stream.Stream,
        info: Callable[[], Mapping[str, Any]],
        troubles: Callable[[], Sequence[str]],
    ) -> None:
        self._fleet = fleet
        self._definitions = definitions
        self._events = events
        self._info = info
        self._troubles = troubles
        self._stats = Stats(fleet)
        self._requests = itertools.count(1)

    def _member(self, name: str) -> Member:
        member = self._fleet.members.get(name)
        if member is None:
            raise RefusedError("no such container", where=name)
        return member

    def names(self) -> Sequence[str]:
        return sorted(self._fleet.members)

    def snapshot(self, name: str) -> Snapshot:
        member = self._member(name)
        hands, shared = member.hands, member.hands.shared
        problems = (
            hands.problem,
            hands.pressure.trouble,
            f"shim lost, no other yet: {member.state.untended}" if member.state.untended else "",
            self._definitions.problem_of(name),
            member.keeper.unwritten,
            member.keeper.fault,
        )
        return Snapshot(
            state=member.state,
            boot=shared.clock.boot(),
            wall=shared.clock.wall(),
            restarts=dict(hands.tally.restarts),
            ends=dict(hands.tally.ends),
            oom_kills=dict(hands.tally.oom_kills),
            cgroup=str(shared.launcher.tree.path(name)),
            log_path=str(shared.launcher.place(name).log_dir / "current.log"),
            file=hands.file,
            problem="; ".join(p for p in problems if p),
            last_end_wall=hands.last_end_wall,
        )

    def problems(self) -> Sequence[str]:
        return [*self._definitions.problems(), *self._troubles()]

    def info(self) -> Mapping[str, Any]:
        return self._info()

    # -- requests -------------------------------------------------------------------------------

    async def start(self, name: str, by: str, wait: float | None) -> Outcome:
        member = self._member(name)
        if member.state.phase in RUNNING or (member.state.phase is Phase.STARTING and not member.state.unmet):
            return Outcome(False, f"{name}: already started", "already started")
        before = member.state.generation
        answer = await self._ask(member, facts.StartAsked(next(self._requests), by))
        return answer if not answer.ok or wait is None else await self._see_running(member, before, wait)

    async def stop(self, name: str, by: str, wait: float | None, kill: bool = False) -> Outcome:
        member = self._member(name)
        running = member.state.phase not in DOWN
        answer = await self._ask(member, facts.StopAsked(next(self._requests), by, kill))
        if not answer.ok:
            return answer
        if wait is not None:
            seen = await member.keeper.wait_for(lambda s: s.phase in DOWN or s.done or is_stuck(s), wait)
            if is_stuck(member.state):
                return Outcome(False, f"{name}: still STOPPING: {member.state.cause.text}", "still running")
            if not seen:
                return Outcome(False, f"{name}: still {member.state.phase} after {wait:g} s", "still running")
        return Outcome(True, f"{name}: stopped") if running else Outcome(False, f"{name}: not running", "not running")

    async def restart(self, name: str, by: str, wait: float | None) -> Outcome:
        member = self._member(name)
        before = member.state.generation
        answer = await self._ask(member, facts.RestartAsked(next(self._requests), by))
        return answer if not answer.ok or wait is None else await self._see_running(member, before, wait)

    async def _ask(self, member: Member, event: facts.StartAsked | facts.StopAsked | facts.RestartAsked) -> Outcome:
        try:
            with anyio.fail_after(ANSWER_LIMIT):
                answered = await member.keeper.ask(event.request, event)
        except TimeoutError:
            return Outcome(False, "no answer yet: the request stands and is decided when the disk answers", "busy")
        return Outcome(answered.ok, answered.message, "" if answered.ok else answered.message)

    async def _see_running(self, member: Member, before: int, wait: float) -> Outcome:
        """RUNNING is success; a run that ended, or waits for another try, is a spawn error."""

        def settled(state: State) -> bool:
            new = state.generation > before
            return (new and state.phase in RUNNING) or state.phase in DOWN or (new and state.phase is Phase.BACKOFF)

        name = member.state.name
        if not await member.keeper.wait_for(settled, wait):
            return Outcome(False, f"{name}: still {member.state.phase}: {member.state.cause.text}", "timeout")
        state = member.state
        finished = state.phase is Phase.EXITED and state.last_end is not None and state.last_end.code == 0
        if state.phase in RUNNING or finished:
            return Outcome(True, f"{name}: started")
        return Outcome(False, f"{name}: {state.cause.text}", "spawn error")

    async def signal(self, name: str, signal: str, by: str) -> Outcome:
        member = self._member(name)
        number = signal_number(signal)
        if number is None:
            return Outcome(False, f"{name}: bad signal name {signal!r}", "bad signal name")
        try:
            member.hands.send(number)
        except GoneError:
            return Outcome(False, f"{name}: not running", "not running")
        return Outcome(True, f"{name}: signalled")

    async def exec(self, name: str, args: Sequence[str], stdio: Sequence[int], options: Mapping[str, Any]) -> int:
        member = self._member(name)
        shim = member.hands.shim
        compiled = member.hands.shared.launcher.compiled(name)
        if shim is None or compiled is None:
            raise RefusedError("not running", where=name)
        if compiled.peer is not None and not compiled.peer.joinable:
            raise RefusedError(f"{compiled.peer.kind or 'its runtime'} lets nobody in", where=name)
        plan = compile_exec(
            compiled.spec,
            tuple(args),
            env=options.get("env"),
            user=options.get("user"),
            cwd=options.get("cwd"),
            rootfs=compiled.root,
            terminal=options.get("tty"),
        )
        try:
            begun = await shim.exec(plan.encode(), *stdio)
        except GoneError:  # before its answer: what it may have begun dies with it
            if shim.ended:
                raise
            raise _lost(name) from None
        with begun as running:
            ended_told = _exec_told(member, running.id, args[0] if args else "")
            code: int | None = None
            try:
                if running.terminal >= 0:
                    options["terminal"](running.terminal)
                    running.close_terminal()  # the caller's alone: when it goes, the command is hung up
                code = await _ended(name, shim, running, options)
                return code
            finally:
                ended_told(code)

    async def attach(self, name: str, sock: int) -> Mapping[str, Any]:
        member = self._member(name)
        shim = member.hands.shim
        if shim is None:
            raise RefusedError("not running", where=name)
        try:
            found = await shim.attach(sock)
        except GoneError:
            if shim.ended or has_ended(shim.pidfd):
                raise RefusedError("not running", where=name) from None
            raise RefusedError("busy", where=name, hint="its shim was lost; another one takes over") from None
        return {"tty": found.tty, "stdin": found.stdin, "generation": shim.generation}

    # -- definitions ----------------------------------------------------------------------------

    async def reread(self) -> Mapping[str, Sequence[str]]:
        loaded = await self._definitions.read()
        planned = self._fleet.plan(loaded.containers)
        return {
            "available": planned.added,
            "changed": (*planned.live, *planned.restarted),
            "disappeared": planned.removed,
            "errors": tuple(str(error) for error in loaded.errors),
        }

    async def update(self, by: str) -> Mapping[str, Sequence[str]]:
        applied, errors = await self._definitions.apply(self._fleet.apply)
        return applied_words(applied) | {"errors": errors}

    # -- history --------------------------------------------------------------------------------

    def why(self, name: str) -> Mapping[str, Any]:
        member = self._member(name)
        store = member.hands.shared.store
        decisions = [one for one in store.decisions(name, limit=200) if in_chain(one)][-CHAIN:]
        stored = store.ends(name, limit=5)
        last = stored[-1] if stored else None
        now = member.hands.shared.clock.boot()
        return {
            "name": name,
            "text": explain(member.state, decisions, now),
            "chain": [stream.line(one) for one in decisions],
            "last_end": asdict(last.end) | {"wall": last.wall, "boot_id": last.boot_id} if last else None,
            "samples": stream.unpack(last.samples) if last and last.samples else {},
        }

    async def stats(self, names: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        return await self._stats.of(names)

    def recording(self, name: str, seconds: float) -> Mapping[str, Any]:
        member = self._member(name)
        track = member.hands.ring.last(seconds)
        return {"generation": member.state.generation, "times": track.times, **track.columns}

    def events(self, query: Query) -> AsyncIterator[Mapping[str, Any]]:
        return self._events.read(query)


def _exec_told(member: Member, number: int, command: str) -> Callable[[int | None], None]:
    """Events of a command inside; of its arguments only the first, for others may be secrets. Returns what tells its
    end. A command a second, for ever, is too much for flash: then a part of them is only counted."""
    hands, generation = member.hands, member.state.generation
    unsaid = hands.shared.journal.may_say(member.state.name, "exec")
    if unsaid is None:
        return lambda code: None
    shown = command[:100]
    hands.remark(
        Said("exec-added", generation, "exec", shown, {"exec": number, "command": shown, "unsaid": unsaid}),
        Said("exec-started", generation, "exec", shown, {"exec": number}),
    )

    def ended(code: int | None) -> None:
        words = "cut off" if code is None else f"exit {code}"
        hands.remark(Said("exec-exit", generation, "exec", f"{words}: {shown}", {"exec": number, "code": code}))

    return ended


def in_chain(event: Decision) -> bool:
    """Whether it is one of the causes that `why` shows."""
    return event.type not in BESIDE_THE_CHAIN and event.code != "definition" and event.data.get("init") is not True


def _lost(name: str) -> HostError:
    return HostError("its shim was lost: the command was killed", where=name, hint="run it again")


async def _ended(name: str, shim: Shim, running: Exec, options: Mapping[str, Any]) -> int:
    """Its exit code. It does not outlive its caller."""
    try:
        async with anyio.create_task_group() as tasks:
            if (words := options.get("signals")) is not None:
                tasks.start_soon(_pass_on, words, shim, running.id)
            ended = await _end_of(running)
            tasks.cancel_scope.cancel()
        if isinstance(ended, WharfError):
            raise ended
        return ended
    except GoneError:
        if shim.ended:
            raise
        running.kill()  # nobody would hear its end
        raise _lost(name) from None
    except BaseException:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            ended = None
            if "tty" in options:  # whoever was hung up may save what it has
                with anyio.move_on_after(HANGUP_GRACE):
                    ended = await _end_of(running)
            if ended is None:
                await shim.signal_exec(running.id, signals.SIGKILL)
        raise


async def _end_of(running: Exec) -> int | WharfError:
    """As a value: what leaves a task group raised comes wrapped."""
    try:
        return await running.wait()
    except WharfError as error:
        return error


async def _pass_on(words: AsyncIterator[str], shim: Shim, number: int) -> None:
    """Signals that the caller's terminal got, to the command inside."""
    async for word in words:
        if (known := signal_number(word)) is not None:
            with suppress(WharfError):
                await shim.signal_exec(number, known)


def applied_words(applied: Applied) -> dict[str, Sequence[str]]:
    return {
        "added": applied.added,
        "live": applied.live,
        "restarted": applied.restarted,
        "removed": applied.removed,
    }


def signal_number(text: str) -> int | None:
    """`HUP`, `SIGHUP` or `1`; None when there is no such signal."""
    text = text.upper()
    if text.isascii() and text.isdigit():
        return int(text) if 1 <= int(text) <= 64 else None
    name = text if text.startswith("SIG") else f"SIG{text}"
    return int(signals.Signals[name]) if name in signals.Signals.__members__ else None
