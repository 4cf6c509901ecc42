"""start, stop, restart, kill, signal: requests that change something, in supervisorctl's words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from supervisor.cli.client import RefusalError, quoted
from supervisor.cli.main import Context, code_of

# Wait longer than any sensible start or grace period: who waits sees the end, Ctrl-C takes nothing back.
START_WAIT, STOP_WAIT, KILL_WAIT = 120.0, 600.0, 60.0
FORGIVEN = {"start": "already started", "stop": "not running", "kill": "not running"}
TOGETHER = 6  # below the daemon's limit of connections a user


def start(context: Context) -> int:
    return _each(context, "start", "started", START_WAIT)


def stop(context: Context) -> int:
    return _each(context, "stop", "stopped", STOP_WAIT)


def restart(context: Context) -> int:
    return _each(context, "restart", "restarted", STOP_WAIT)


def kill(context: Context) -> int:
    return _each(context, "kill", "killed", KILL_WAIT)


def signal(context: Context) -> int:
    word = context.args.names.pop(0)
    return _each(context, "signal", "signalled", None, {"signal": word})


def _each(context: Context, verb: str, done: str, wait: float | None, body: dict[str, Any] | None = None) -> int:
    asked = dict(body or {})
    if wait is not None and not context.args.on("no_wait"):
        chosen = context.args.seconds("wait")
        asked["wait"] = wait if chosen is None else chosen
    limit = 30.0 + float(asked.get("wait", 0.0))

    def one(name: str) -> dict[str, Any]:
        try:
            path = f"/v1/containers/{quoted(name)}/{verb}"
            answer: dict[str, Any] = context.client.post(path, asked, limit)
            return answer
        except RefusalError as refusal:
            return {
                "name": name, "ok": False, "code": refusal.code, "message": refusal.message, "exit": code_of(refusal)
            }  # fmt: skip

    worst = 0
    for answer in _together(_names(context), one):
        code = int(answer.pop("exit", 0))
        forgiven = answer["code"] == FORGIVEN.get(verb)
        if context.json:
            context.say(json.dumps(answer))
        else:
            _print(context, answer, done, "accepted" if "wait" not in asked and verb != "signal" else done, forgiven)
        worst = max(worst, 0 if forgiven else code)
    return worst


def _print(context: Context, answer: dict[str, Any], done: str, word: str, forgiven: bool) -> None:
    name, code, message = answer["name"], answer["code"], answer["message"]
    if answer["ok"]:
        context.say(f"{name}: {word}")
        return
    context.say(f"{name}: ERROR ({code or message})")
    detail = message.removeprefix(f"{name}: ")
    if detail and detail != code and not forgiven:
        context.warn(f"  {detail}")


def _names(context: Context) -> list[str]:
    if "all" not in context.args.names:
        return list(dict.fromkeys(context.args.names))
    return [one["name"] for one in context.client.get("/v1/containers")["containers"]]


def _together(names: list[str], one: Callable[[str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Several at once, answers in the order of the names: a slow stop holds up no other."""
    if len(names) < 2:
        yield from map(one, names)
        return
    import threading

    answers: list[dict[str, Any] | Exception | None] = [None] * len(names)
    ready = [threading.Event() for _ in names]
    waiting = iter(range(len(names)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                at = next(waiting, None)
            if at is None:
                return
            try:
                answers[at] = one(names[at])
            except Exception as error:  # noqa: BLE001  raised again where the answer is taken
                answers[at] = error
            ready[at].set()

    for _ in range(min(TOGETHER, len(names))):
        threading.Thread(target=work, daemon=True).start()  # daemon: Ctrl-C does not wait for them
    for at, event in enumerate(ready):
        event.wait()
        answer = answers[at]
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        yield answer
