"""`wharfctl images ...`: the store of images, without the daemon. Needs the rights of who may write in the store."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.errors import HostError, WharfError
from supervisor.cli.args import UsageError
from supervisor.cli.main import Context

if TYPE_CHECKING:
    from runtime.images.snapshots import Snapshots
    from runtime.images.store import Record, Store

VERBS = ("ls", "import", "inspect", "rm", "tag", "pin", "unpin", "prune", "verify", "history", "save")


def images(context: Context) -> int:
    """The first argument says what: see VERBS."""
    verb, *names = context.args.names or ["ls"]
    found = {
        "ls": _ls, "import": _import, "inspect": _inspect, "rm": _rm, "tag": _tag, "pin": _pin, "unpin": _unpin,
        "prune": _prune, "verify": _verify, "history": _history, "save": _save,
    }.get(verb)  # fmt: skip
    if found is None:
        raise UsageError(f"{', '.join(VERBS)}, not {verb}")
    return found(context, names)


def _store() -> tuple[Store, Snapshots]:
    from config.settings import load_settings
    from runtime.images.snapshots import Snapshots
    from runtime.images.store import Store

    state_dir = load_settings()[0].state_dir
    store = Store(state_dir / "images")
    try:
        store.make()
    except OSError as error:
        hint = "run it as root" if os.geteuid() else ""
        raise HostError(f"no store of images: {error.strerror}", str(error.filename or store.root), hint) from None
    with suppress(WharfError), store.lock(exclusive=True, wait=0):  # else somebody is at work, and his is no litter
        store.sweep()
    return store, Snapshots(store)


def _ls(context: Context, names: list[str]) -> int:
    from runtime.images.reference import parse_reference

    _exactly(names, 0, "images ls")
    store, snapshots = _store()
    rows = []
    for record in store.records():
        try:
            image = store.image_of(record)
            size = sum(layer.size for layer in image.manifest.layers)
            state = "ready" if snapshots.ready(image) else "not unpacked"
        except WharfError:
            size, state = 0, "damaged"
        rows.append((record, parse_reference(record.ref).familiar, size, state))
    if context.json:
        _print([{**_shown(record), "packed_bytes": size, "state": state} for record, _, size, state in rows])
        return 0
    table = [("NAME", "DIGEST", "PLATFORM", "SIZE", "AGE", "STATE")]
    for record, name, size, state in rows:
        age = _age(time.time() - record.at)
        pinned = " pinned" if record.pinned else ""
        table.append((name, record.digest[7:19], record.platform, _bytes(size), age, state + pinned))
    widths = [max(len(row[n]) for row in table) for n in range(5)]
    for row in table:
        context.say("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]))
    return 0


def _import(context: Context, names: list[str]) -> int:
    from runtime.images import garbage
    from runtime.images.importer import Importer
    from runtime.images.media import host_platform, parse_platform
    from runtime.images.snapshots import Limits, Snapshots

    _exactly(names, 1, "images import FILE")
    store, _ = _store()
    platform = parse_platform(context.args.text("platform")) if context.args.on("platform") else host_platform()
    path = Path(os.path.abspath(names[0]))
    if not path.exists():
        raise WharfError("there is no such file", str(path))
    snapshots = Snapshots(store, Limits(devices=context.args.on("allow_devices")))
    try:
        records = Importer(store, snapshots, platform).run(path, context.args.text("name"))
    except WharfError:
        garbage.collect(store, snapshots)  # what it had brought in by then
        raise
    _told(context, records)
    return 0


def _inspect(context: Context, names: list[str]) -> int:
    """JSON always, as docker's."""
    store, snapshots = _store()
    shown = []
    for name in names or [""]:
        image = store.image(_reference(name))
        layers = [
            {**layer.to_json(), "diffId": diff_id}
            for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True)
        ]
        body = {"config": dict(image.config.run), "created": image.config.created, "layers": layers}
        shown.append({**_shown(image.record), **body, "unpacked": snapshots.ready(image)})
    _print(shown)
    return 0


def _history(context: Context, names: list[str]) -> int:
    _exactly(names, 1, "images history NAME")
    store, _ = _store()
    image = store.image(_reference(names[0]))
    lines = [
        {"created": str(line.get("created") or ""), "created_by": str(line.get("created_by") or "")}
        for line in image.config.history
    ]
    if context.json:
        _print(lines)
        return 0
    for line in lines:
        context.say(f"{line['created'][:19]:19}  {line['created_by'][:200]}".rstrip())
    return 0


def _rm(context: Context, names: list[str]) -> int:
    from runtime.images import garbage

    if not names:
        raise UsageError("images rm requires an image's name")
    store, snapshots = _store()
    for name in names:
        if not store.unname(_reference(name)):
            raise WharfError(f"there is no image {name}")
        context.say(f"removed {name}")
    garbage.collect(store, snapshots)
    return 0


def _tag(context: Context, names: list[str]) -> int:
    from dataclasses import replace

    _exactly(names, 2, "images tag NAME NEW_NAME")
    store, _ = _store()
    image, fresh = store.image(_reference(names[0])), _reference(names[1])
    if fresh.digest:
        raise UsageError("a new name has no digest")
    store.name(replace(image.record, ref=str(fresh)))
    context.say(f"{fresh.familiar} is {image.record.digest}")
    return 0


def _pin(context: Context, names: list[str]) -> int:
    return _set_pin(context, names, True)


def _unpin(context: Context, names: list[str]) -> int:
    return _set_pin(context, names, False)


def _set_pin(context: Context, names: list[str], pinned: bool) -> int:
    _exactly(names, 1, f"images {'' if pinned else 'un'}pin NAME")
    store, _ = _store()
    store.pin(_reference(names[0]), pinned)
    context.say(f"{names[0]} is {'kept' if pinned else 'no longer kept'} by prune")
    return 0


def _prune(context: Context, names: list[str]) -> int:
    """Names that no definition uses, and what no name needs."""
    from runtime.images import garbage
    from supervisor.cli.offline import used_images

    _exactly(names, 0, "images prune")
    store, snapshots = _store()
    dry = context.args.on("dry_run")
    gone = garbage.prune(store, snapshots, used_images(), dry)
    if context.json:
        _print([{"what": one.what, "name": one.name, "bytes": one.size, "why": one.why} for one in gone])
        return 0
    for one in gone:
        context.say(f"{'would remove' if dry else 'removed'} {one.what} {one.name} ({_bytes(one.size)}): {one.why}")
    context.say(f"{_bytes(sum(one.size for one in gone))} in {len(gone)} parts")
    return 0


def _verify(context: Context, names: list[str]) -> int:
    """Reads every blob and unpacks nothing; 1 when something is damaged."""
    _exactly(names, 0, "images verify")
    store, _ = _store()
    bad = [str(problem) for problem in store.verify()]
    if context.json:
        _print(bad)
    else:
        for problem in bad:
            context.say(problem)
        context.say(f"{len(bad)} damaged")
    return 1 if bad else 0


def _save(context: Context, names: list[str]) -> int:
    from runtime.images import archive

    _exactly(names, 2, "images save NAME FILE")
    store, _ = _store()
    image = store.image(_reference(names[0]))
    target = Path(os.path.abspath(names[1]))
    archive.save(store, image, target)
    context.say(f"saved {names[0]} to {target}")
    return 0


def _told(context: Context, records: list[Record]) -> None:
    from runtime.images.reference import parse_reference

    if context.json:
        _print([_shown(record) for record in records])
        return
    for record in records:
        context.say(f"{parse_reference(record.ref).familiar}  {record.digest}")


def _shown(record: Record) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(record)


def _reference(name: str) -> Any:
    from runtime.images.reference import parse_reference

    if not name:
        raise UsageError("an image's name is required")
    return parse_reference(name)


def _print(body: object) -> None:
    sys.stdout.write(json.dumps(body, indent=2) + "\n")


def _exactly(names: list[str], count: int, usage: str) -> None:
    if len(names) != count:
        raise UsageError("wrong number of arguments", hint=f"usage: wharfctl {usage}")


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return ""


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"
