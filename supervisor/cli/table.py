"""The commands of wharfctl: options, help, and where each is done. The manual page is checked against this table."""

from __future__ import annotations

from collections.abc import Sequence


class Option:
    """`flags` as they are typed; `value` is the metavariable of its argument, or "" for a switch."""

    __slots__ = ("flags", "help", "value")

    def __init__(self, flags: str, help: str, value: str = "") -> None:  # noqa: A002
        self.flags = tuple(flags.split())
        self.value = value
        self.help = help

    @property
    def key(self) -> str:
        return self.flags[-1].lstrip("-").replace("-", "_")


class Command:
    """`run` is `module:function` below supervisor.cli; `least` and `most` count the arguments; `missing` names them."""

    __slots__ = ("help", "least", "missing", "most", "name", "options", "run", "usage")

    def __init__(
        self,
        usage: str,
        help: str,  # noqa: A002
        run: str,
        options: Sequence[Option] = (),
        least: int = 0,
        most: int = 1_000_000,
        missing: str = "",
    ) -> None:
        self.name = usage.split(" ")[0]
        self.usage = usage
        self.help = help
        self.run = run
        self.options = options
        self.least = least
        self.most = most
        self.missing = missing


GLOBAL = (
    Option("--json", "print JSON"),
    Option("--socket", "control socket of the daemon ($WHARFINGER_SOCKET)", "PATH"),
    Option("-h --help", "show help"),
    Option("--version", "show the version of wharfctl"),
)

_WAIT = Option("--wait", "wait at most so long for the result", "SECONDS")
_NO_WAIT = Option("--no-wait", "return when the request is stored")
_FOLLOW = Option("-f --follow", "go on as more is written")
_NAME = "a container's name"
_NAMES = "a container's name, or all"

COMMANDS = (
    Command("status [NAME...]", "show what each container does, and why", "status:status"),
    Command("start NAME...|all", "start containers", "act:start", (_WAIT, _NO_WAIT), 1, missing=_NAMES),
    Command("stop NAME...|all", "stop containers, for good", "act:stop", (_WAIT, _NO_WAIT), 1, missing=_NAMES),
    Command("restart NAME...|all", "stop and start", "act:restart", (_WAIT, _NO_WAIT), 1, missing=_NAMES),
    Command("kill NAME...|all", "stop without grace", "act:kill", (_WAIT, _NO_WAIT), 1, missing=_NAMES),
    Command(
        "signal SIGNAL NAME...|all", "send a signal to the first process", "act:signal", (), 2,
        missing="a signal and a container's name",
    ),
    Command("pid [NAME...|all]", "show process ids", "status:pid"),
    Command(
        "top", "show what the containers use, live", "stats:top",
        (
            Option("--once", "print one table; so it does without a terminal"),
            Option("--sort", "cpu, memory, pids, name, io, net, pressure or state", "COLUMN"),
        ),
        most=0,
    ),
    Command(
        "stats [NAME...]", "show what containers use, each second", "stats:stats",
        (Option("--no-stream", "print it once"),),
    ),
    Command("why NAME", "tell why a container is in its state", "why:why", (), 1, 1, _NAME),
    Command(
        "tail [-f] [-BYTES] NAME", "show the end of a log (1600 bytes)", "logs:tail",
        (_FOLLOW,), 1, 1, _NAME,
    ),
    Command(
        "logs [-f] NAME", "show a log", "logs:logs",
        (
            _FOLLOW,
            Option("-n --tail", "only the last lines", "LINES"),
            Option("-t --timestamps", "with the time of each line"),
            Option("--stream", "only stdout or stderr", "STREAM"),
        ),
        1, 1, _NAME,
    ),
    Command(
        "events [--follow]", "show what happened", "events:events",
        (
            _FOLLOW,
            Option("--since", "after this number, since this long (10m) or time", "PLACE"),
            Option("-n --tail", "only the last events (20 with --follow)", "NUMBER"),
            Option("--type", "only these types, with commas between", "TYPES"),
            Option("--cause", "only these causes, with commas between", "CAUSES"),
            Option("--name", "only this container", "NAME"),
            Option("--schema", "print the JSON Schema of a line of --json"),
        ),
        most=0,
    ),
    Command(
        "exec NAME -- COMMAND...", "run a command inside a running container", "execute:execute",
        (
            Option("-i --interactive", "pass this stdin on; else the command's is empty"),
            Option("-t --tty", "on a terminal of its own"),
            Option("-e --env", "set a variable; may be repeated", "KEY=VALUE"),
            Option("-u --user", "as this user", "USER[:GROUP]"),
            Option("-w --workdir", "in this directory", "PATH"),
        ),
        2, missing="a container's name and a command",
    ),
    Command(
        "attach NAME", "watch a container, and type into it", "attach:attach",
        (
            Option("--detach-keys", "keys that leave it running (ctrl-p,ctrl-q)", "KEYS"),
            Option("--no-stdin", "only look: pass neither what is typed nor a size"),
            Option("--end-stdin", "when this stdin ends, so does the container's"),
        ),
        1, 1, _NAME,
    ),
    Command("reread", "show what update would do", "files:reread", most=0),
    Command("update", "apply the definitions", "files:update", most=0),
    Command("reload", "the same as update", "files:update", most=0),
    Command("config schema|check|dump [FILE...]", "definitions, settings; needs no daemon", "offline:config", (), 1,
            missing="schema, check or dump"),
    Command(
        "plan NAME", "show what would run; needs no daemon", "offline:plan",
        (
            Option("--launch", "the steps of the launch, in order"),
            Option("--file", "the definition file or directory", "PATH"),
        ),
        1, 1, _NAME,
    ),
    Command(
        "images [VERB] [NAME...]", "the store of images; needs no daemon",
        "images:images",
        (
            Option("--name", "the name of an imported image that brings none", "NAME"),
            Option("--platform", "the image of an index, when not this host's", "OS/ARCH[/VARIANT]"),
            Option("--allow-devices", "import: take device nodes of layers"),
            Option("--dry-run", "prune: say what would go, and why"),
        ),
    ),
    Command("version", "show the daemon's version", "status:version", most=0),
    Command("completion bash|zsh|fish", "print a completion script", "completion:completion", (), 1, 1, "a shell"),
    Command("help [COMMAND]", "show help", "help:show", most=1),
)  # fmt: skip


def command(name: str) -> Command | None:
    return next((one for one in COMMANDS if one.name == name), None)
