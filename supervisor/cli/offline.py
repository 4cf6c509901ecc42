"""config, plan: what the files say, without a daemon. Imports models and compilers, hence not on the way of others."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from config.errors import DefinitionError, WharfError
from supervisor.cli.args import UsageError
from supervisor.cli.main import ERROR, Context

if TYPE_CHECKING:
    from config.loader import Definitions
    from config.settings import Settings


def config(context: Context) -> int:
    """`config schema`, `config check [FILE...]`, `config dump`."""
    verb, *files = context.args.names
    if verb == "check":
        return _check(context, files)
    if verb not in ("schema", "dump") or files:
        raise UsageError(f"schema, check or dump, not {' '.join(context.args.names)}")
    return _schema(context) if verb == "schema" else _dump(context)


def _schema(context: Context) -> int:
    from config.schema import definition_schema

    context.say(json.dumps(definition_schema(), indent=2))
    return 0


def _check(context: Context, files: list[str]) -> int:
    """2 when something is wrong: as for any wrong argument."""
    found = _read(files or [str(_settings().definitions_dir)])
    errors = [str(error) for error in found.errors]
    if context.json:
        context.say(json.dumps({"containers": sorted(found.containers), "errors": errors}))
    else:
        for error in errors:
            context.say(error)
        count = len(found.containers)
        context.say(f"{count} container{'s' * (count != 1)}, {len(errors)} error{'s' * (len(errors) != 1)}")
    return DefinitionError.exit_code if errors else 0


def _read(paths: list[str]) -> Definitions:
    """Files and directories together, as one set of definitions."""
    from config.loader import Definitions, is_definition_name, load_file, merge

    files: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            raise WharfError(f"cannot be read: {error.strerror}", path) from None
        files += [os.path.join(path, name) for name in names if is_definition_name(name)]
    return merge([load_file(file) for file in files], Definitions())


def _settings() -> Settings:
    from config.settings import load_settings

    return load_settings()[0]


def _dump(context: Context) -> int:
    """The settings in force for a daemon that was started now, each with its source."""
    from config.settings import load_settings

    settings, sources = load_settings()
    shown = settings.model_dump(mode="json")
    if context.json:
        context.say(json.dumps({key: {"value": shown[key], "source": sources[key]} for key in shown}))
        return 0
    for key, value in shown.items():
        word = "auto" if value is None else str(value)
        context.say(f"{key:<18}{word:<34}{sources[key]}".rstrip())
    return 0


def plan(context: Context) -> int:
    """The OCI spec of one container, or with `--launch` the operations of its launch."""
    from runtime.images.root import Roots
    from runtime.images.snapshots import Snapshots
    from runtime.images.store import Store
    from runtime.probe import probe
    from supervisor.specs import plan_of, rooted_of, spec_of

    name = context.args.names[0]
    path = context.args.text("file") or str(_settings().definitions_dir)
    found = _read([path])
    container = found.containers.get(name)
    if container is None:
        for error in found.errors:
            context.warn(f"ERROR: {error}")
        context.say(f"{name}: ERROR (no such container)")
        return ERROR
    host = probe()
    store = Store(_settings().state_dir / "images")
    rooted = rooted_of(container, Roots(store, Snapshots(store)))
    spec, rootfs = spec_of(container, host, rooted)
    compiled = plan_of(container, spec, rootfs, host, rooted.stack if rooted else None)
    for warning in compiled.warnings:
        context.warn(f"warning: {warning}")
    if not context.args.on("launch"):
        context.say(json.dumps(_without_secrets(spec), indent=None if context.json else 2))
    elif context.json:
        context.say(json.dumps({"steps": compiled.describe(), "warnings": list(compiled.warnings)}))
    else:
        for number, step in enumerate(compiled.describe(), start=1):
            context.say(f"{number:>3} {step}")
    return 0


def _without_secrets(spec: dict[str, Any]) -> dict[str, Any]:
    """Values of the environment may be secrets; their names are enough to see what is set."""
    process = dict(spec.get("process", {}))
    if process.get("env"):
        process["env"] = [pair.partition("=")[0] + "=***" for pair in process["env"]]
    return {**spec, "process": process}


def used_images() -> set[str]:
    """Canonical names of the images that the definitions use. Raises WharfError when one of them cannot be read: what
    it uses is not known."""
    from runtime.images.reference import parse_reference

    found = _read([str(_settings().definitions_dir)])
    if found.errors:
        raise WharfError(f"definitions have errors, so it is not known what they use: {found.errors[0]}")
    return {str(parse_reference(one.image)) for one in found.containers.values() if one.image is not None}
