"""What pydantic found wrong, in an operator's words: a path of keys and one line each. Pure."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from config.fields import Path, kind, nearest, quote

# Fields of a container (or of the block named first) that later versions will know.
LATER: dict[str, frozenset[str]] = {
    "": frozenset((
        "ports", "dns", "dns_search", "dns_opt", "extra_hosts", "networks", "volumes", "secrets", "configs",
        "devices", "device_cgroup_rules", "env_file", "image_policy", "pull_policy", "notify", "watchdog",
        "metrics", "annotations", "platform", "profiles", "extends", "post_start", "pre_start",
        "pre_stop", "requires", "update", "gpus", "storage_opt",
    )),
    "healthcheck": frozenset(("http", "tcp", "file", "notify")),
    "depends_on": frozenset(("restart",)),
}  # fmt: skip

# How Compose and others call what we have under another name, or do not have at all.
ELSEWHERE: dict[str, dict[str, str]] = {
    "": {
        "mem_limit": "resources.memory", "mem_reservation": "resources.memory_low", "mem_high": "resources.memory_high",
        "memswap_limit": "resources.memory_swap (which is swap alone)", "cpus": "resources.cpus",
        "cpu_shares": "resources.cpu_weight", "cpu_quota": "resources.cpus", "cpu_period": "resources.cpus",
        "cpuset": "resources.cpuset", "pids_limit": "resources.pids", "blkio_config": "resources.io_max",
        "memory": "resources.memory", "pids": "resources.pids", "deploy": "resources and restart",
        "restart_policy": "restart", "network_mode": "network", "rlimits": "ulimits",
        "security_opt": "seccomp and no_new_privileges", "userns_mode": "user_namespace", "container_name": "the key",
        "privileged": "cap_add",
        "oom_kill_disable": "oom", "env": "environment", "entry_point": "entrypoint",
        "enabled": "autostart", "exitcodes": "success_exit_codes", "startsecs": "healthy_after",
        "stopsignal": "stop_signal", "stopwaitsecs": "stop_grace_period", "startretries": "restart.max_attempts",
        "directory": "working_dir",
    },
    "logging": {"driver": "max_size and max_files", "options": "max_size and max_files"},
    "restart": {"condition": "policy", "delay": "interval", "max_delay": "max_interval", "on_give_up": "on_exhausted"},
}  # fmt: skip


class Fault(NamedTuple):
    """One thing that is wrong: the keys that lead to it, and words; `on_key` when the key itself is wrong."""

    path: Path
    text: str
    on_key: bool = False


def explain(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """Each fault of `error`, in the order of the fields."""
    out: list[Fault] = []
    for one in error.errors(include_url=False, include_input=True):
        loc: Path = tuple(part for part in one["loc"] if part != "[key]")
        context: dict[str, Any] = one.get("ctx") or {}
        if "all" in context:
            out += [Fault((*loc, *at), text) for at, text in context["all"]]
        elif one["type"] == "wharfinger":
            out.append(Fault((*loc, *context.get("at", ())), context["text"]))
        elif one["type"] == "extra_forbidden":
            out.append(Fault(loc, unknown_key(loc, model), on_key=True))
        else:
            out.append(Fault(loc, _usual(one["type"], one["input"], one["msg"])))
    return out


def _usual(code: str, given: Any, fallback: str) -> str:
    if code == "missing":
        return "is required"
    if given is None:
        return "is empty"
    if code in ("model_type", "dict_type", "model_attributes_type", "mapping_type"):
        return f"must be a mapping of keys, not {_shown(given)}"
    if code in ("tuple_type", "list_type"):
        return f"must be a list, not {_shown(given)}"
    return fallback[:1].lower() + fallback[1:]


def _shown(given: Any) -> str:
    return f"the text {quote(given)}" if isinstance(given, str) else kind(given)


def unknown_key(loc: Path, model: type[BaseModel]) -> str:
    """Words for a key that the model at `loc` does not have."""
    key = str(loc[-1])
    block = str(loc[0]) if len(loc) > 1 else ""
    if key in LATER.get(block, ()):
        return "is not supported yet; remove it"
    if key in ELSEWHERE.get(block, {}):
        return f"unknown key, use {ELSEWHERE[block][key]}"
    owner = model_at(loc[:-1], model)
    return "unknown key" + suggestion(key, keys_of(owner) if owner else ())


def suggestion(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f', did you mean "{near}"?' if near else ""


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys that a file may give for a model; a container's name is the key above it."""
    return [info.alias or key for key, info in model.model_fields.items() if key != "name"]


def model_at(loc: Path, model: type[BaseModel]) -> type[BaseModel] | None:
    """The model that the keys `loc` lead to, from `model` on."""
    here: Any = model
    for part in loc:
        if isinstance(here, type) and issubclass(here, BaseModel):
            fields = here.model_fields
            info = fields.get(str(part)) or next((i for i in fields.values() if i.alias == part), None)
            here = _inner(info.annotation) if info else None
        else:  # the key of a mapping or the number of a list item
            here = _inner((get_args(here) or (None,))[-1 if get_origin(here) is dict else 0])
    here = _inner(here)
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def _inner(annotation: Any) -> Any:
    """Without Annotated and None."""
    while True:
        if hasattr(annotation, "__metadata__"):
            annotation = annotation.__origin__
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next((a for a in get_args(annotation) if a is not type(None)), None)
        else:
            return annotation
