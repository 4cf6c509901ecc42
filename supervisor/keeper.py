"""The task of one container: the only writer of its state.

It takes events from one queue, asks the pure core what follows, and has the effects done: those that
must be in order (store, answers, signals) by itself, one after the other; those that take time
(launch, clean, probe) as tasks, each of which ends in an event.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from anyio import (
    TASK_STATUS_IGNORED,
    Event,
    WouldBlock,
    create_memory_object_stream,
    create_task_group,
    current_time,
    fail_after,
    move_on_after,
)
from anyio.abc import TaskStatus

from config.errors import HostError, WharfError
from supervisor.lifecycle import facts
from supervisor.lifecycle.facts import Effect, State
from supervisor.lifecycle.history import Said, told
from supervisor.lifecycle.step import step
from supervisor.ports import Clock
from supervisor.timing import Watch

log = logging.getLogger("wharfinger.keeper")

QUEUE_FOR_REQUESTS = 64
# trio's clock stops in suspend and the core's does not: look again at least this often while waiting.
LONGEST_NAP = 30.0
WRITE_AGAIN = 2.0  # seconds until a fact that could not be stored is told again

Heard = tuple[facts.Event, float]  # and when
Durable = facts.Persist | facts.RecordEnd
Slow = facts.Launch | facts.Clean | facts.Probe | facts.ApplyLive | facts.Forget
SLOW = (facts.Launch, facts.Clean, facts.Probe, facts.ApplyLive, facts.Forget)
REQUESTS = (facts.StartAsked, facts.StopAsked, facts.RestartAsked)
DURABLE = (facts.Persist, facts.RecordEnd)


class Unwritten(Exception):  # noqa: N818  an answer of the disk, within this file
    """A step's intent could not be stored."""


class Performer(Protocol):
    """What does the effects of one container (engine.py)."""

    async def store(
        self, before: State, after: State, durable: Sequence[Durable], launch: facts.Launch | None, told: Sequence[Said]
    ) -> None:
        """Write everything of one step in one transaction. Raises HostError, nothing written."""
        ...

    def later(self, before: State, after: State, told: Sequence[Said]) -> None:
        """Events that ask for no transaction of their own."""
        ...

    def quick(self, effect: facts.Signal | facts.KillAll) -> None: ...

    async def slow(self, effect: Slow) -> facts.Event | None: ...

    def limit(self, effect: Slow) -> float: ...


@dataclass(slots=True)
class Answered:
    """A request's place to wait for its answer."""

    done: Event
    ok: bool = False
    message: str = ""


class Keeper:
    """Keeps one container. `changed` is called after each step with the state before and after."""

    def __init__(
        self,
        state: State,
        performer: Performer,
        clock: Clock,
        changed: Callable[[State, State], None],
        watch: Watch,
    ) -> None:
        self.state = state
        self._do = performer
        self._clock = clock
        self._changed = changed
        self._watch = watch
        self._tx, self._rx = create_memory_object_stream[Heard](math.inf)
        self._answers: dict[int, Answered] = {}
        self._moved = Event()
        self._held: deque[Heard] = deque()  # facts that could not be stored yet, and those after them
        self._held_until = 0.0
        self.fault = ""
        self.unwritten = ""

    # -- from outside ---------------------------------------------------------------------------

    def tell(self, event: facts.Event) -> None:
        """Queue what the kernel or an effect said. Repeatable facts are dropped when the queue is long:
        they are levels, and will be told again."""
        if isinstance(event, facts.ChildOom | facts.Pressure | facts.Tick) and self._busy():
            return
        with suppress(WouldBlock):
            self._tx.send_nowait((event, self._clock.boot()))

    async def ask(self, request: int, event: facts.StartAsked | facts.StopAsked | facts.RestartAsked) -> Answered:
        """Queue a request and wait for its answer, which comes when its intent is stored.

        A full queue answers at once, refused. Cancelled: the request stays queued and is decided all the same.
        """
        answered = Answered(Event())
        if self._busy() or self.state.done:
            answered.message = "busy: too many requests wait; try again"
            return answered
        self._answers[request] = answered
        try:
            self._tx.send_nowait((event, self._clock.boot()))
            await answered.done.wait()
        finally:
            self._answers.pop(request, None)
        return answered

    async def wait_for(self, condition: Callable[[State], bool], timeout: float) -> bool:
        """Wait until the state meets `condition`; False when the time is over. A time-out says nothing of the state."""
        with move_on_after(timeout):
            while not condition(self.state):
                await self._moved.wait()
            return True
        return condition(self.state)

    def _busy(self) -> bool:
        return self._tx.statistics().current_buffer_used >= QUEUE_FOR_REQUESTS

    # -- the task -------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        async with create_task_group() as tg:
            task_status.started()
            while not self.state.done:
                event, heard = await self._next()
                try:
                    slow = await self._turn(event, heard)
                except WharfError as error:
                    self._fence(event, error)
                    continue
                except Exception as error:
                    log.exception("container=%s event=%r", self.state.name, event)
                    self._fence(event, error)
                    continue
                decided = self._clock.boot()
                for effect in slow:
                    tg.start_soon(self._act, effect, decided)
        for answered in self._answers.values():
            answered.message = "the container is gone"
            answered.done.set()

    async def _next(self) -> Heard:
        """The next event; facts that could not be stored come first, and in their order. Requests may pass them."""
        while True:
            if self._held and self._clock.boot() >= self._held_until:
                return self._held.popleft()
            heard = await self._receive()
            if not self._held or isinstance(heard[0], REQUESTS):
                return heard
            if not isinstance(heard[0], facts.Tick):
                self._held.append(heard)

    async def _receive(self) -> Heard:
        with suppress(WouldBlock):  # receive() is a cancel point first: an overdue Tick would overtake a stop
            return self._rx.receive_nowait()
        due = self._held_until if self._held else self.state.wake_at
        nap = math.inf if due is None else min(LONGEST_NAP, max(0.0, due - self._clock.boot()))
        with move_on_after(nap) as scope:
            return await self._rx.receive()
        self._watch.woke(current_time() - scope.deadline)
        now = self._clock.boot()
        return facts.Tick(), now if due is None else min(due, now)

    async def _turn(self, event: facts.Event, heard: float) -> list[Slow]:
        before = self.state
        self.state, effects = step(before, event, self._clock.boot())
        if self.state is before and not effects:
            return []
        try:
            slow = await self._in_order(event, before, effects)
        except Unwritten as error:
            self._take_back(before, event, heard, str(error))
            return []
        self._watch.decided(event, before, self.state, heard, self._clock.boot())
        self.unwritten = ""
        self._moved.set()
        self._moved = Event()
        self._changed(before, self.state)
        return slow

    async def _in_order(self, event: facts.Event, before: State, effects: Sequence[Effect]) -> list[Slow]:
        """One transaction for all that is durable, then answers and signals in their order; the rest is returned."""
        durable = [e for e in effects if isinstance(e, DURABLE)]
        launch = next((e for e in effects if isinstance(e, facts.Launch)), None)
        said = told(event, before, self.state, effects)
        if not durable and not launch and all(one.later for one in said):
            self._do.later(before, self.state, said)
        else:
            try:
                await self._do.store(before, self.state, durable, launch, said)
            except HostError as error:
                if any(isinstance(e, facts.Persist) for e in durable):
                    raise Unwritten(str(error)) from error
                log.error("container=%s history is not written: %s", self.state.name, error)
        slow: list[Slow] = []
        decided = self._clock.boot()
        for effect in effects:
            if isinstance(effect, facts.Answer):
                self._answer(effect)
            elif isinstance(effect, facts.Signal | facts.KillAll):
                try:
                    self._do.quick(effect)
                    self._watch.done(self.state, effect, decided, self._clock.boot())
                except WharfError as error:
                    self.tell(facts.Failed(type(effect).__name__, effect.generation, str(error)))
            elif isinstance(effect, SLOW):
                slow.append(effect)
        return slow

    async def _act(self, effect: Slow, decided: float) -> None:
        """An effect ends in an event, always."""
        name, generation = type(effect).__name__, effect.generation
        try:
            with fail_after(self._do.limit(effect)):
                heard = await self._do.slow(effect)
        except TimeoutError:
            heard = facts.Failed(name, generation, f"no end after {self._do.limit(effect):.0f} s")
        except WharfError as error:
            heard = facts.Failed(name, generation, str(error))
        except Exception as error:
            log.exception("container=%s effect=%r", self.state.name, effect)
            self.fault = f"fault in {name}: {type(error).__name__}"
            heard = facts.Failed(name, generation, f"internal: {type(error).__name__}: {error}")
        self._watch.done(self.state, effect, decided, self._clock.boot(), heard)
        if heard is not None:
            self.tell(heard)

    def _fence(self, event: facts.Event, error: Exception) -> None:
        self.fault = f"{type(event).__name__}: {type(error).__name__}: {error}"
        request = getattr(event, "request", None)
        if request in self._answers:
            self._answer(facts.Answer(request, ok=False, message=str(error)))

    def _answer(self, answer: facts.Answer) -> None:
        if (waiting := self._answers.get(answer.request)) is not None:
            waiting.ok, waiting.message = answer.ok, answer.message
            waiting.done.set()

    def _take_back(self, before: State, event: facts.Event, heard: float, why: str) -> None:
        """What cannot be made durable did not happen: a request is refused, a fact is told again in a while."""
        self.state = before
        if not self.unwritten:
            log.error("container=%s state is not written: %s", before.name, why)
        self.unwritten = f"state is not written: {why}"
        self._held_until = self._clock.boot() + WRITE_AGAIN
        if isinstance(event, REQUESTS):
            self._answer(facts.Answer(event.request, ok=False, message=why))
        elif not isinstance(event, facts.Tick):
            self._held.appendleft((event, heard))
        elif before.wake_at is not None:  # what is overdue must not spin meanwhile
            self.state = replace(before, wake_at=max(before.wake_at, self._held_until))
