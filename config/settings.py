"""Settings of the daemon: a TOML file, then `WHARFINGER_*` variables, then flags; the later wins.

`load_settings` also says where each value came from. Times are seconds.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from config import fields, words
from config.errors import DefinitionError
from config.explain import explain, suggestion
from config.files import regular_file
from config.pressure import OFF, Threshold

PREFIX = "WHARFINGER_"
MAX_BYTES = 256 * 1024
LABELS_MAX = 16
Spot = tuple[int, int]
_KEY = re.compile(r"\s*\[{0,2}\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*[=.\]]")
# Variables of this prefix that are not settings of the daemon: wharfctl's socket, fault injection, the test harness.
OTHERS = frozenset(PREFIX + name for name in ("SOCKET", "FAILPOINTS", "VM", "RUN", "REQUIRE", "REPORT", "SEED"))

LevelWord = Literal["debug", "info", "warning", "error"]


def _path(value: object) -> Path:
    return Path(words.container_path(str(value)))


def _optional_path(value: object) -> str | None:
    return None if value in (None, "", "auto") else words.container_path(str(value))


def _listen(value: object) -> str:
    word = fields.line(value)
    if word == "off":
        return word
    host, colon, port = word.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in bare and bare == host) or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII):
        raise fields.problem(f'must be HOST:PORT, [IPV6]:PORT or "off", not {fields.quote(word)}')
    if int(port) > 65_535:
        raise fields.problem(f"{port} is not a port")
    return word


def _labels(value: object) -> tuple[str, ...]:
    keys = [key.strip() for key in value.split(",") if key.strip()] if isinstance(value, str) else value
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
        raise fields.problem("must be a list of names of labels")
    if len(keys) > LABELS_MAX:
        raise fields.problem(f"has {len(keys)} labels; {LABELS_MAX} are allowed, since each is on every series")
    return tuple(dict.fromkeys(fields.line(key) for key in keys))


def _endpoint(value: object) -> str | None:
    if value in (None, ""):
        return None
    word = fields.line(value)
    try:
        parts = urlsplit(word)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in word
    except ValueError:
        good = False
    if not good:
        raise fields.problem(f"must be http://HOST:PORT or https://HOST:PORT, not {fields.quote(word)}")
    return word


def _level(value: object) -> str:
    return str(value).lower()


def _run_dir(value: object) -> Path:
    path = _path(value)
    if len(os.fsencode(path)) > 90:  # a socket's address holds 107 bytes
        raise fields.problem("is longer than 90 bytes; a socket could not be made in it")
    return path


def _group(value: object) -> str:
    return "" if value == "" else words.group(value)


def _host_id(value: object) -> str | None:
    return None if value in (None, "") else fields.line(value)


Level = Annotated[LevelWord, fields.one_of(LevelWord), BeforeValidator(_level)]
Directory = Annotated[Path, BeforeValidator(_path)]
OptionalPath = Annotated[str | None, BeforeValidator(_optional_path)]


class Settings(BaseSettings):
    """Settings of one daemon. `docs/settings.md` describes each for operators."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True, env_ignore_empty=False
    )

    config_file: Directory = Field(Path("/etc/wharfinger/config.toml"), description="The TOML file of these settings.")
    definitions_dir: Directory = Field(
        Path("/etc/wharfinger/containers.d"), description="Directory of definition files, `*.yaml` and `*.yml`."
    )
    state_dir: Directory = Field(Path("/var/lib/wharfinger"), description="Durable state: what was asked for, ends.")
    run_dir: Annotated[Path, BeforeValidator(_run_dir)] = Field(
        Path("/run/wharfinger"), description="Sockets and run state, gone after a boot. At most 90 bytes."
    )
    log_dir: Directory = Field(Path("/var/log/wharfinger"), description="Logs of the containers.")
    cgroup_root: OptionalPath = Field(
        None, description="Own subtree of cgroup v2; `auto`: `<mount>/wharfinger` (docs/architecture.md says when not)."
    )
    metrics_listen: Annotated[str, BeforeValidator(_listen)] = Field(
        "127.0.0.1:9627", description="Where `/metrics`, `/healthz` and `/readyz` are served: `HOST:PORT`, or `off`."
    )
    metrics_labels: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_labels)] = Field(
        (), description="Labels of definitions that are put on series of `/metrics`; they may hold secrets, so: none."
    )
    socket_group: Annotated[str, BeforeValidator(_group)] = Field(
        "wharfinger", description="Group that may act through the control socket; empty: root alone."
    )
    view_group: Annotated[str, BeforeValidator(_group)] = Field(
        "wharfinger-view", description="Group that may look through the control socket; empty: none."
    )
    pressure_memory: Threshold = Field(
        "some 500ms 2s", description="Pressure that is an event, of containers that say nothing else: memory."
    )
    pressure_cpu: Threshold = Field(OFF, description="The same for processors.")
    pressure_io: Threshold = Field(OFF, description="The same for disks.")
    parallel_starts: Annotated[int, fields.whole(1, 64)] = Field(4, description="Starts at once, at most.")
    log_level: Level = Field("info", description="What the daemon logs.")
    tracing_endpoint: Annotated[str | None, BeforeValidator(_endpoint)] = Field(
        None, description="OTLP over HTTP: the collector that gets spans of starts, restarts and scrapes."
    )
    host_id: Annotated[str | None, BeforeValidator(_host_id)] = Field(
        None, description="Spreads restarts over a fleet; the host name when not given."
    )
    shim_path: OptionalPath = Field(None, description="The `wharf-shim` program; `auto`: beside the daemon's own.")
    crun_path: OptionalPath = Field(None, description="The program of `runtime: crun`; `auto`: the first in PATH.")
    runc_path: OptionalPath = Field(None, description="The program of `runtime: runc`; `auto`: the first in PATH.")
    runsc_path: OptionalPath = Field(None, description="The program of `runtime: runsc`; `auto`: the first in PATH.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` gives: it alone knows which value came from where."""
        return (init_settings,)


def load_settings(flags: Mapping[str, str] | None = None) -> tuple[Settings, dict[str, str]]:
    """The settings, and for each its source: `default`, `file PATH`, `environment NAME` or `flag --NAME`.

    A missing file is no fault, unless a flag names it. Raises DefinitionError with one line for what is wrong.
    """
    given = {key.removeprefix("--").replace("-", "_"): value for key, value in (flags or {}).items()}
    variables = EnvSettingsSource(Settings)()
    _refuse_unknown(given)
    file = _file(given, variables)
    table, spots = _read_file(file, must_exist="config_file" in given)
    values: dict[str, Any] = {**table, **variables, **given}
    sources = dict.fromkeys(Settings.model_fields, "default")
    sources |= dict.fromkeys(table, f"file {file}")
    sources |= {key: f"environment {PREFIX}{key.upper()}" for key in variables}
    sources |= {key: _flag(key) for key in given}
    try:
        return Settings(**values), sources
    except ValidationError as e:
        fault = explain(e, Settings)[0]
        raise _error(str(fault.path[0]), fault.text, sources, file, spots) from None


def _flag(key: str) -> str:
    return f"flag --{key.replace('_', '-')}"


def _error(key: str, text: str, sources: Mapping[str, str], file: Path, spots: Mapping[str, Spot]) -> DefinitionError:
    if sources[key].startswith("file "):
        line, column = spots.get(key, (0, 0))
        return DefinitionError(text, key, file=str(file), line=line, column=column)
    return DefinitionError(text, sources[key].partition(" ")[2])


def _refuse_unknown(given: Mapping[str, str]) -> None:
    known = list(Settings.model_fields)
    for key in given:
        if key not in known:
            raise DefinitionError("unknown setting" + suggestion(key, known), f"--{key.replace('_', '-')}")
    names = [PREFIX + key.upper() for key in known]
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in names and name.upper() not in OTHERS:
            raise DefinitionError("unknown setting" + suggestion(name, names), name)


def _file(given: Mapping[str, str], variables: Mapping[str, Any]) -> Path:
    for source, where in ((given, "--config-file"), (variables, PREFIX + "CONFIG_FILE")):
        if "config_file" in source:
            try:
                return _path(source["config_file"])
            except PydanticCustomError as e:
                raise DefinitionError(e.message(), where) from None
    default: Path = Settings.model_fields["config_file"].default
    return default


def _read_file(path: Path, must_exist: bool) -> tuple[dict[str, Any], dict[str, Spot]]:
    """The keys of the file and where they are."""
    text = ""
    try:
        text = regular_file(str(path), MAX_BYTES).decode()
        if len(text) > MAX_BYTES:
            raise DefinitionError(f"is larger than {MAX_BYTES // 1024} KiB", file=str(path))
        table = tomllib.loads(text)
    except FileNotFoundError:
        if not must_exist:
            return {}, {}
        raise DefinitionError("there is no such file", file=str(path)) from None
    except OSError as e:
        raise DefinitionError(f"cannot be read: {e.strerror}", file=str(path)) from None
    except tomllib.TOMLDecodeError as e:
        what, _, place = str(e).partition(" (at ")
        numbers = [int(n) for n in re.findall(r"[0-9]+", place)]
        line, column = numbers if len(numbers) == 2 else (text.count("\n") + 1, len(text) - text.rfind("\n"))
        raise DefinitionError(what[:1].lower() + what[1:], file=str(path), line=line, column=column) from None
    except UnicodeDecodeError:
        raise DefinitionError("is not UTF-8", file=str(path)) from None
    except RecursionError:
        raise DefinitionError("is nested too deep", file=str(path)) from None
    except (ValueError, MemoryError) as e:
        what = "has a number that is too long" if "digits" in str(e) else str(e) or "needs too much memory"
        raise DefinitionError(what, file=str(path)) from None
    spots = _spots(text)
    for key in table:
        if key not in Settings.model_fields or key == "config_file":
            line, column = spots.get(key, (0, 0))
            known = [name for name in Settings.model_fields if name != "config_file"]
            what = "must not name another file" if key == "config_file" else "unknown key" + suggestion(key, known)
            raise DefinitionError(what, fields.quote(key).strip('"'), file=str(path), line=line, column=column)
    return table, spots


def _spots(text: str) -> dict[str, Spot]:
    """Line and column of each key at the start of a line. A look-alike in a text of several lines may come first."""
    found: dict[str, Spot] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if match := _KEY.match(line):
            found.setdefault(match[1], (number, match.start(1) + 1))
    return found
