"""Brings the listeners up: control.sock, attach.sock, and the metrics' TCP port."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup, TaskStatus

from config.errors import HostError
from supervisor.api.app import control_app
from supervisor.api.attach import Attach
from supervisor.api.exchange import Limits
from supervisor.api.front import LIMITS, Front
from supervisor.api.peer import Roles
from supervisor.api.public import Scrape, public_app
from supervisor.api.sockets import bind_tcp, bind_unix, prepare_run_dir
from supervisor.ports import Control

log = logging.getLogger("wharfinger.api")

METRICS_RETRY = 10.0


class Places(Protocol):
    """The settings that the API needs (`config.settings.Settings`)."""

    @property
    def run_dir(self) -> Path: ...

    @property
    def socket_group(self) -> str: ...

    @property
    def view_group(self) -> str: ...

    @property
    def metrics_listen(self) -> str: ...


class Serving:
    """What is served now; for the daemon's own metrics and for its end."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.fronts: dict[str, Front] = {}
        self.metrics_address: tuple[str, int] | None = None
        self.problem = ""  # why the metrics listener is not up
        self._paths = paths

    def close(self) -> None:
        """Unlink the sockets, so that a client says `no such file` at once. For the daemon's end, under its lock."""
        for path in self._paths:
            path.unlink(missing_ok=True)


async def serve(
    settings: Places,
    control: Control,
    scrape: Scrape,
    tasks: TaskGroup,
    *,
    ready: Callable[[], bool] = lambda: True,
    limits: Limits = LIMITS,
) -> Serving:
    """Returns when the control sockets answer; all serving is done by tasks of `tasks`.

    To be called with the state directory's lock held. A metrics port that is taken is tried again and is no
    reason not to run. Raises HostError for the control sockets.
    """
    roles = Roles.of_groups(settings.socket_group, settings.view_group)
    run_dir = Path(settings.run_dir)
    if roles.act is None and settings.socket_group:
        log.info("group=%s does not exist: only root may use the control socket", settings.socket_group)
    prepare_run_dir(run_dir, roles.act, roles.view)
    serving = Serving([run_dir / "control.sock", run_dir / "attach.sock"])
    owner = roles.act if os.geteuid() == 0 else None
    listener = bind_unix(run_dir / "control.sock", owner, roles.view)
    attach = bind_unix(run_dir / "attach.sock", owner, kind=socket.SOCK_SEQPACKET)
    serving.fronts["control"] = Front(control_app(control), roles, limits)
    await tasks.start(serving.fronts["control"].serve, listener)
    tasks.start_soon(Attach(control, roles).serve, attach)
    if settings.metrics_listen not in ("", "off"):
        serving.fronts["metrics"] = Front(public_app(scrape, ready), None, limits)
        await tasks.start(_serve_metrics, serving, settings.metrics_listen)
    return serving


async def _serve_metrics(
    serving: Serving, address: str, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    started = False
    while True:
        try:
            listener = await to_thread.run_sync(bind_tcp, address)  # a name may have to be resolved
        except HostError as error:
            if str(error) != serving.problem:
                log.error('metrics error="%s"', error)
            serving.problem = str(error)
        else:
            serving.problem = ""
            serving.metrics_address = listener.getsockname()[:2]
            if not started:
                task_status.started()
            await serving.fronts["metrics"].serve(listener)
            return
        if not started:
            task_status.started()
            started = True
        await anyio.sleep(METRICS_RETRY)
