"""The commands of `wharf-oci` and their options. runc's names; crun's beside them where they differ."""

from __future__ import annotations

from runtime.ocicli.args import FLAG, LIST, NUMBER, TEXT, Option

GLOBAL = (
    Option("root", TEXT, "where the state of the containers is kept (/run/wharf-oci)"),
    Option("log", TEXT, "a file that errors and warnings are written to as well"),
    Option("log-format", TEXT, "text or json"),
    Option("log-level", TEXT, "error, warning, info or debug"),
    Option("debug", FLAG, "log what is done"),
    Option("cgroup-manager", TEXT, "cgroupfs, the only one"),
    Option("systemd-cgroup", FLAG, "taken for the sake of engines; a unit of systemd as cgroupsPath is refused"),
    Option("rootless", TEXT, "taken for the sake of engines"),
    Option("help h ?", FLAG, "this text"),
    Option("version v V", FLAG, "the version"),
)
HELP = Option("help h ?", FLAG, "this text")

_BUNDLE = Option("bundle b", TEXT, "the bundle's directory (.)")
_CONSOLE = Option("console-socket", TEXT, "a unix socket that gets the terminal's master")
_PID_FILE = Option("pid-file", TEXT, "a file for the pid, written last")
_PRESERVE = Option("preserve-fds", NUMBER, "how many fds from 3 on the program gets")
_FORMAT = Option("format f", TEXT, "table or json")
_REGEX = Option("regex r", FLAG, "the word is a regular expression: all containers that it fits")
_CREATE = (
    _BUNDLE,
    Option("config f", TEXT, "another file than the bundle's config.json"),
    _CONSOLE,
    Option("pidfd-socket", TEXT, "a unix socket that gets a pidfd of the first process"),
    _PID_FILE,
    _PRESERVE,
    Option("no-pivot", FLAG, "refused: the root is always pivoted"),
    Option("no-new-keyring", FLAG, "keep the session keyring of the caller"),
    Option("no-subreaper", FLAG, "do not become the reaper of the container's orphans"),
)


class Command:
    """`least` and `most` words; `ordered`: words behind the last of `least` are another program's."""

    __slots__ = ("help", "least", "most", "options", "ordered", "where", "words")

    def __init__(
        self,
        where: str,
        help: str,  # noqa: A002
        words: str = "CONTAINER",
        least: int = 1,
        most: int | None = 1,
        options: tuple[Option, ...] = (),
        *,
        ordered: bool = False,
    ) -> None:
        self.where = where  # module:function
        self.help = help
        self.words = words
        self.least = least
        self.most = most
        self.options = (*options, HELP)
        self.ordered = ordered


COMMANDS: dict[str, Command] = {
    "create": Command("make:create", "make a container that waits for start", options=_CREATE),
    "start": Command("start:start", "run the program of a created container"),
    "run": Command(
        "run:run",
        "create and start; ends with the program's exit code",
        options=(
            *_CREATE,
            Option("detach d", FLAG, "do not wait for its end"),
            Option("keep", FLAG, "do not delete the container at its end"),
        ),
    ),
    "state": Command("show:state", "the state of a container, in JSON"),
    "kill": Command(
        "end:kill",
        "send a signal to the first process (TERM)",
        "CONTAINER [SIGNAL]",
        most=2,
        options=(Option("all a", FLAG, "to all processes of the container"), _REGEX),
    ),
    "delete": Command(
        "end:delete",
        "remove what a stopped container left",
        most=None,
        options=(Option("force f", FLAG, "kill it first; no container is no error"), _REGEX),
    ),
    "exec": Command(
        "run:exec_",
        "run another program in a container",
        "CONTAINER COMMAND [ARGS...]",
        most=None,
        ordered=True,
        options=(
            Option("process p", TEXT, "a file with a process as in config.json"),
            Option("cwd", TEXT, "working directory"),
            Option("env e", LIST, "NAME=VALUE"),
            Option("user u", TEXT, "UID[:GID]"),
            Option("additional-gids g", LIST, "a further group"),
            Option("cap c", LIST, "a further capability"),
            Option("no-new-privs", FLAG, "never gain privileges by execve"),
            Option("apparmor", TEXT, "the process's AppArmor profile"),
            Option("process-label", TEXT, "the process's SELinux label"),
            Option("cgroup", TEXT, "a cgroup below the container's"),
            Option("tty t", FLAG, "on a terminal of its own"),
            Option("detach d", FLAG, "do not wait for its end"),
            Option("ignore-paused", FLAG, "also in a paused container, where it will wait"),
            Option("no-subreaper", FLAG, "do not become the reaper of its orphans"),
            _CONSOLE,
            Option("pidfd-socket", TEXT, "a unix socket that gets a pidfd of the process"),
            _PID_FILE,
            _PRESERVE,
        ),
    ),
    "list": Command(
        "show:list_", "all containers", "", 0, 0, options=(_FORMAT, Option("quiet q", FLAG, "their ids alone"))
    ),
    "ps": Command(
        "show:ps", "the processes of a container", "CONTAINER [ps OPTIONS]", most=None, ordered=True, options=(_FORMAT,)
    ),
    "events": Command(
        "events:events",
        "OOM kills and statistics as they come, in JSON",
        options=(
            Option("interval", TEXT, "between statistics (5s)"),
            Option("stats", FLAG, "statistics once"),
        ),
    ),
    "pause": Command("update:pause", "freeze all processes"),
    "resume": Command("update:resume", "let them go on"),
    "update": Command(
        "update:update",
        "change the limits of a container",
        options=(
            Option("resources r", TEXT, "a file with linux.resources in JSON, - is stdin"),
            Option("memory", TEXT, "bytes, or with k, m, g; -1 is no limit"),
            Option("memory-reservation", TEXT, "memory that is kept when the host is short of it"),
            Option("memory-swap", TEXT, "memory and swap together"),
            Option("kernel-memory", TEXT, "cgroup v1 only, nothing is done"),
            Option("kernel-memory-tcp", TEXT, "cgroup v1 only, nothing is done"),
            Option("cpu-period", NUMBER, "microseconds"),
            Option("cpu-quota", NUMBER, "microseconds of each period; -1 is no limit"),
            Option("cpu-burst", NUMBER, "microseconds over the quota at times"),
            Option("cpu-share cpu-shares", NUMBER, "weight against others, 2 to 262144"),
            Option("cpu-idle", NUMBER, "1: only when nobody else wants the processors"),
            Option("cpu-rt-period", NUMBER, "refused: cgroup v1 only"),
            Option("cpu-rt-runtime", NUMBER, "refused: cgroup v1 only"),
            Option("cpuset-cpus", TEXT, "processors"),
            Option("cpuset-mems", TEXT, "memory nodes"),
            Option("pids-limit", NUMBER, "how many processes; -1 is no limit"),
            Option("blkio-weight", NUMBER, "10 to 1000"),
        ),
    ),
    "features": Command("features:features", "what this runtime can, in JSON", "", 0, 0),
    "spec": Command(
        "spec:spec",
        "write a config.json to begin with",
        "",
        0,
        0,
        options=(
            _BUNDLE,
            Option("file f", TEXT, "the file's name (config.json)"),
            Option("rootless", FLAG, "with a user namespace"),
        ),
    ),
}
