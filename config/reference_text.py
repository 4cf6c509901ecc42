"""Words of the reference that the models do not have: introductions, types as operators say them, examples."""

from __future__ import annotations

DEFINITIONS = """# Definitions

Containers are declared in files `*.yaml` or `*.yml` of one directory (the setting `definitions_dir`,
`/etc/wharfinger/containers.d`). Hidden files and leftovers of editors (`x.yaml~`, `.x.yaml.swp`, `#x.yaml#`) are not
read.

```yaml
version: 1                     # optional, the version of this format
containers:
  web:                         # the name: up to 63 of a-z 0-9 _ . -, the first a letter or digit
    rootfs: /srv/web
    command: [httpd, -f, -p, "8080"]
    restart: on-failure:5
    resources: {memory: 128MiB, pids: 64}
    healthcheck: {test: [CMD, wget, -q, -O-, "http://127.0.0.1:8080/"]}
    depends_on: {db: {condition: healthy}}
  db:
    rootfs: ./db               # relative to this file
    command: serve
x-notes: {owner: shop team}    # keys that start with x- are not read
```

## How a file is read

- YAML 1.2: `no`, `on`, `yes` and `off` are text, `2122:22` is text, and only `true` and `false` are switches.
  A number where text is wanted is the text of the file: `VERSION: 1.10` is `1.10`, `MODE: 0644` is `0644`.
- A key that is not known is refused, with the nearest known one. So is a key given twice, and a key without a value.
- Anchors, aliases, merge keys (`<<`), tags, and a second document are refused. A file has at most 256 KiB, 32 levels
  and 10,000 keys and values; it is UTF-8 text.
- All errors of a file are told at once, each as `file:line:column: container.key: what is wrong`.
- A faulty definition harms no other one. If the container is known, its last good definition stays in force and the
  error is shown with it. A file that cannot be read as a whole (half-written, empty, not YAML) keeps all that it had.
- A definition that is taken out of its file, or whose file is removed, is removed. A file without containers says
  `containers: {}`.
- A name belongs to the first file that has it, in the order of file names; a second one is an error.
- `depends_on` names must exist in some file, unless `required: false`, and must not form a circle.

## Units

- **Durations**: `500ms`, `10s`, `1m30s`, `2h`, `1d`, or a plain number of seconds.
- **Sizes**: `64k`, `128MiB`, `1.5G`, or a plain number of bytes. As in Docker `k`, `M` and `G`, with or without `B` or
  `iB`, are powers of 1024.
- **Permission bits** are octal: `0755`, `755` and `0o755` are the same.
- **Signals**: `TERM`, `SIGTERM` or `15`; `RTMIN+3`.

## What a change does

A definition is compared by its meaning: order of keys, comments, units and spelled-out defaults make no difference, and
an unchanged definition never restarts a container. Changes of `restart`, `success_exit_codes`, `stop_signal`,
`stop_grace_period`, `autostart`, `start_timeout`, `healthy_after`, `resources`, `oom`, `pressure`, `on_pressure`,
`healthcheck`, `depends_on`, `logging`, `labels` and `allow_vulnerable_runtime` apply to the running container. All
others restart it.

## Fields of a container

Exactly one of `image`, `rootfs` and `bundle` is given. Beside an `image`, what the definition leaves out (`entrypoint`,
`command`, `environment`, `working_dir`, `user`, `stop_signal`) is the image's (images.md). Beside a `bundle`, fields
that its `config.json` decides are refused.
"""

GROUPS: tuple[tuple[str, list[str]], ...] = (
    (
        "What runs",
        [
            "image",
            "rootfs",
            "bundle",
            "entrypoint",
            "command",
            "environment",
            "working_dir",
            "tty",
            "stdin_open",
            "init",
            "runtime",
            "allow_vulnerable_runtime",
        ],
    ),
    ("As whom", ["user", "group_add", "umask", "hostname", "domainname"]),
    (
        "Start, stop, restart",
        [
            "restart",
            "success_exit_codes",
            "stop_signal",
            "stop_grace_period",
            "autostart",
            "start_timeout",
            "healthy_after",
            "healthcheck",
            "depends_on",
        ],
    ),
    ("Resources", ["resources", "oom", "pressure", "on_pressure", "oom_score_adj", "rlimits", "shm_size"]),
    ("Files and network", ["mounts", "tmpfs", "read_only", "network", "sysctls"]),
    (
        "Security",
        ["cap_add", "cap_drop", "no_new_privileges", "seccomp", "user_namespace", "masked_paths", "readonly_paths"],
    ),
    ("Logs and labels", ["logging", "labels"]),
)

LATER = """## Not supported yet

These are refused with a clear message, never ignored: {fields}; `healthcheck` by {checks}; `restart` in
`depends_on`;
`network: bridge` and `init: true`.
"""

ELSEWHERE = """## Names from elsewhere

Fields have the Compose specification's names where it has one. Also accepted: `restart: on-failure:5`, a
`healthcheck.test` of one text (it is `CMD-SHELL`), `depends_on` as a list, conditions with `service_` before them,
`environment` and `labels` as lists of `NAME=VALUE`. Where a name differs, the error says so:
"""

SETTINGS = """# Settings

The daemon reads its settings from a TOML file (`/etc/wharfinger/config.toml`), then from variables `WHARFINGER_KEY`
(upper case), then from flags `--set key=value`; the later one wins, a value at a time. `wharfctl config` shows each
value and its source. A file that does not exist is no error, unless a flag names it. Unknown keys and bad values are
refused with one line that says where.
The variable `WHARFINGER_SOCKET` is for `wharfctl` alone.

```toml
metrics_listen = "127.0.0.1:9627"
parallel_starts = 2
log_level = "debug"
```
"""

TYPES: dict[str, str] = {
    "rootfs": "path",
    "bundle": "path",
    "image": "text",
    "entrypoint": "list or text",
    "command": "list or text",
    "environment": "mapping or list",
    "working_dir": "path in it",
    "tty": "true, false",
    "stdin_open": "true, false",
    "init": "true, false",
    "runtime": "`native`, `crun`, `runc`, `runsc` or a path",
    "allow_vulnerable_runtime": "true, false",
    "user": "text",
    "group_add": "list",
    "umask": "octal",
    "hostname": "host name",
    "domainname": "host name",
    "restart": "policy or block",
    "success_exit_codes": "list of 0 to 255",
    "stop_signal": "signal",
    "stop_grace_period": "duration",
    "autostart": "true, false",
    "start_timeout": "duration, 100ms or more",
    "healthy_after": "duration",
    "healthcheck": "block",
    "depends_on": "list or mapping of blocks",
    "resources": "block",
    "oom": "block",
    "pressure": "block",
    "on_pressure": "`event`, `restart`",
    "oom_score_adj": "-1000 to 1000",
    "ulimits": "mapping",
    "shm_size": "size, 4KiB or more",
    "mounts": "list of blocks",
    "tmpfs": "list of text",
    "read_only": "true, false",
    "network": "`none`, `host`",
    "sysctls": "mapping",
    "cap_add": "list of capabilities",
    "cap_drop": "list of capabilities",
    "no_new_privileges": "true, false",
    "seccomp": "`default`, `unconfined`",
    "user_namespace": "block",
    "masked_paths": "list of paths",
    "readonly_paths": "list of paths",
    "logging": "block",
    "labels": "mapping or list",
    "restart.policy": "`no`, `on-failure`, `unless-stopped`, `always`",
    "restart.max_attempts": "1 to 1000000",
    "restart.interval": "duration",
    "restart.factor": "1 to 100",
    "restart.max_interval": "duration",
    "restart.jitter": "0 to 1",
    "restart.reset_after": "duration",
    "restart.window": "duration, 1s or more",
    "restart.on_exhausted": "`fatal`, `slow`",
    "restart.slow_interval": "duration, 1s or more",
    "restart.crash_loop_after": "1 to 1000000",
    "resources.memory": "size, 1MiB or more",
    "resources.memory_high": "size, 1MiB or more",
    "resources.memory_low": "size",
    "resources.memory_min": "size",
    "resources.memory_swap": "size",
    "resources.cpus": "0.01 to 10000",
    "resources.cpu_weight": "1 to 10000",
    "resources.pids": "1 to 4194304, `max`",
    "resources.io_weight": "1 to 10000",
    "resources.io_max": "list of blocks",
    "resources.cpuset": "ranges",
    "resources.cpuset_mems": "ranges",
    "resources.on_missing": "`refuse`, `warn`",
    "resources.io_max.device": "device",
    "resources.io_max.rbps": "size",
    "resources.io_max.wbps": "size",
    "resources.io_max.riops": "number",
    "resources.io_max.wiops": "number",
    "oom.group": "true, false",
    "oom.on_child_kill": "`ignore`, `restart`",
    "pressure.memory": "`KIND THRESHOLD WINDOW`, `off`",
    "pressure.cpu": "the same",
    "pressure.io": "the same",
    "pressure.restart_on": "list of `memory`, `memory_high`, `cpu`, `io`",
    "pressure.restart_after": "duration",
    "pressure.cool_down": "duration, 1s or more",
    "healthcheck.test": "list or text",
    "healthcheck.interval": "duration, 100ms or more",
    "healthcheck.timeout": "duration, 100ms or more",
    "healthcheck.retries": "1 to 1000",
    "healthcheck.start_period": "duration",
    "healthcheck.start_interval": "duration, 100ms or more",
    "healthcheck.on_failure": "`none`, `restart`, `stop`, `event`",
    "depends_on.condition": "`started`, `healthy`, `completed_successfully`",
    "depends_on.required": "true, false",
    "mounts.type": "`bind`, `tmpfs`",
    "mounts.source": "path",
    "mounts.target": "path in it",
    "mounts.read_only": "true, false",
    "mounts.size": "size, 4KiB or more",
    "mounts.mode": "octal",
    "mounts.propagation": "`private`, `rprivate`, `slave`, `rslave`, `shared`, `rshared`",
    "mounts.options": "list",
    "mounts.idmap": "true, false",
    "user_namespace.uid_base": "1 to 4294967294",
    "user_namespace.gid_base": "1 to 4294967294",
    "user_namespace.size": "1 to 4294967294",
    "user_namespace.idmap": "true, false",
    "logging.max_size": "size, 4KiB or more",
    "logging.max_files": "1 to 1000",
    "settings.config_file": "path",
    "settings.definitions_dir": "path",
    "settings.state_dir": "path",
    "settings.run_dir": "path",
    "settings.log_dir": "path",
    "settings.cgroup_root": "path, `auto`",
    "settings.metrics_listen": "address, `off`",
    "settings.metrics_labels": "list of labels' names",
    "settings.socket_group": "group",
    "settings.view_group": "group",
    "settings.pressure_memory": "`KIND THRESHOLD WINDOW`, `off`",
    "settings.pressure_cpu": "the same",
    "settings.pressure_io": "the same",
    "settings.parallel_starts": "1 to 64",
    "settings.log_level": "`debug`, `info`, `warning`, `error`",
    "settings.tracing_endpoint": "URL",
    "settings.host_id": "text",
    "settings.shim_path": "path, `auto`",
    "settings.crun_path": "path, `auto`",
    "settings.runc_path": "path, `auto`",
    "settings.runsc_path": "path, `auto`",
}

# Each is read by a test as the body of a container, or as a line of the settings.
EXAMPLES: dict[str, str] = {
    "rootfs": "rootfs: /srv/web",
    "bundle": "bundle: /srv/bundle",
    "image": "image: registry.local/web:1.4",
    "entrypoint": "entrypoint: [/sbin/run]",
    "command": "command: [nginx, -g, daemon off;]",
    "environment": "environment: {TZ: UTC}",
    "working_dir": "working_dir: /srv",
    "tty": "tty: true",
    "stdin_open": "stdin_open: true",
    "init": "init: false",
    "runtime": "runtime: crun",
    "allow_vulnerable_runtime": "allow_vulnerable_runtime: true",
    "user": "user: 1000:1000",
    "group_add": "group_add: [dialout]",
    "umask": "umask: 0027",
    "hostname": "hostname: web1",
    "domainname": "domainname: shop.local",
    "restart": "restart: on-failure:5",
    "success_exit_codes": "success_exit_codes: [0, 3]",
    "stop_signal": "stop_signal: QUIT",
    "stop_grace_period": "stop_grace_period: 20s",
    "autostart": "autostart: false",
    "start_timeout": "start_timeout: 1m",
    "healthy_after": "healthy_after: 5s",
    "healthcheck": "healthcheck: {test: [CMD, /bin/check]}",
    "depends_on": "depends_on: {db: {condition: healthy}}",
    "resources": "resources: {memory: 128MiB, cpus: 0.5}",
    "oom": "oom: {group: false}",
    "pressure": "pressure: {memory: full 1s 2s}",
    "on_pressure": "on_pressure: restart",
    "oom_score_adj": "oom_score_adj: 500",
    "ulimits": "ulimits: {nofile: {soft: 1024, hard: 4096}}",
    "shm_size": "shm_size: 128MiB",
    "mounts": "mounts: [{source: /srv/html, target: /html, read_only: true}]",
    "tmpfs": "tmpfs: ['/run:size=16M,mode=755']",
    "read_only": "read_only: true",
    "network": "network: host",
    "sysctls": "sysctls: {net.core.somaxconn: 1024}",
    "cap_add": "cap_add: [NET_ADMIN]",
    "cap_drop": "cap_drop: [ALL]",
    "no_new_privileges": "no_new_privileges: false",
    "seccomp": "seccomp: unconfined",
    "user_namespace": "user_namespace: {uid_base: 100000}",
    "masked_paths": "masked_paths: [/proc/kcore]",
    "readonly_paths": "readonly_paths: [/proc/sys]",
    "logging": "logging: {max_size: 1MiB, max_files: 2}",
    "labels": "labels: {team: shop}",
    "restart.policy": "restart: {policy: unless-stopped}",
    "restart.max_attempts": "restart: {policy: on-failure, max_attempts: 5}",
    "restart.interval": "restart: {interval: 500ms}",
    "restart.factor": "restart: {factor: 1}",
    "restart.max_interval": "restart: {max_interval: 5m}",
    "restart.jitter": "restart: {jitter: 0}",
    "restart.reset_after": "restart: {reset_after: 10m}",
    "restart.window": "restart: {window: 1h}",
    "restart.on_exhausted": "restart: {policy: on-failure, max_attempts: 9, on_exhausted: slow}",
    "restart.slow_interval": "restart: {slow_interval: 1h}",
    "restart.crash_loop_after": "restart: {crash_loop_after: 10}",
    "resources.memory": "resources: {memory: 128MiB}",
    "resources.memory_high": "resources: {memory_high: 100MiB}",
    "resources.memory_low": "resources: {memory_low: 32MiB}",
    "resources.memory_min": "resources: {memory_min: 16MiB}",
    "resources.memory_swap": "resources: {memory_swap: 0}",
    "resources.cpus": "resources: {cpus: 0.5}",
    "resources.cpu_weight": "resources: {cpu_weight: 200}",
    "resources.pids": "resources: {pids: 64}",
    "resources.io_weight": "resources: {io_weight: 50}",
    "resources.io_max": "resources: {io_max: [{device: /dev/mmcblk0, wbps: 1M}]}",
    "resources.cpuset": "resources: {cpuset: '0-2,5'}",
    "resources.cpuset_mems": "resources: {cpuset_mems: 0}",
    "resources.on_missing": "resources: {on_missing: warn}",
    "resources.io_max.device": "resources: {io_max: [{device: 179:0, wbps: 1M}]}",
    "resources.io_max.rbps": "resources: {io_max: [{device: /dev/sda, rbps: 10M}]}",
    "resources.io_max.wbps": "resources: {io_max: [{device: /dev/sda, wbps: 1M}]}",
    "resources.io_max.riops": "resources: {io_max: [{device: /dev/sda, riops: 500}]}",
    "resources.io_max.wiops": "resources: {io_max: [{device: /dev/sda, wiops: 100}]}",
    "oom.group": "oom: {group: false}",
    "oom.on_child_kill": "oom: {group: false, on_child_kill: restart}",
    "pressure.memory": "pressure: {memory: full 500ms 2s}",
    "pressure.cpu": "pressure: {cpu: some 1s 2s}",
    "pressure.io": "pressure: {io: full 1s 2s}",
    "pressure.restart_on": "pressure: {restart_on: [memory, io]}",
    "pressure.restart_after": "pressure: {restart_after: 30s}",
    "pressure.cool_down": "pressure: {cool_down: 1h}",
    "healthcheck.test": "healthcheck: {test: [CMD-SHELL, 'test -e /run/ok']}",
    "healthcheck.interval": "healthcheck: {test: [CMD, /ok], interval: 1m}",
    "healthcheck.timeout": "healthcheck: {test: [CMD, /ok], timeout: 5s}",
    "healthcheck.retries": "healthcheck: {test: [CMD, /ok], retries: 5}",
    "healthcheck.start_period": "healthcheck: {test: [CMD, /ok], start_period: 1m}",
    "healthcheck.start_interval": "healthcheck: {test: [CMD, /ok], start_interval: 1s}",
    "healthcheck.on_failure": "healthcheck: {test: [CMD, /ok], on_failure: event}",
    "depends_on.condition": "depends_on: {init-db: {condition: completed_successfully}}",
    "depends_on.required": "depends_on: {cache: {required: false}}",
    "mounts.type": "mounts: [{type: tmpfs, target: /tmp}]",
    "mounts.source": "mounts: [{source: ./html, target: /html}]",
    "mounts.target": "mounts: [{source: /srv/html, target: /html}]",
    "mounts.read_only": "mounts: [{source: /srv/html, target: /html, read_only: true}]",
    "mounts.size": "mounts: [{type: tmpfs, target: /tmp, size: 16MiB}]",
    "mounts.mode": "mounts: [{type: tmpfs, target: /tmp, mode: 1777}]",
    "mounts.propagation": "mounts: [{source: /mnt, target: /mnt, propagation: rslave}]",
    "mounts.options": "mounts: [{source: /srv/up, target: /up, options: [nosuid, noexec]}]",
    "mounts.idmap": "mounts: [{source: /srv/up, target: /up, idmap: true}]",
    "user_namespace.uid_base": "user_namespace: {uid_base: 100000}",
    "user_namespace.gid_base": "user_namespace: {uid_base: 100000, gid_base: 200000}",
    "user_namespace.size": "user_namespace: {uid_base: 100000, size: 1000}",
    "user_namespace.idmap": "user_namespace: {uid_base: 100000, idmap: true}",
    "logging.max_size": "logging: {max_size: 1MiB}",
    "logging.max_files": "logging: {max_files: 2}",
    "settings.config_file": "--config-file /etc/edge.toml",
    "settings.definitions_dir": 'definitions_dir = "/srv/containers.d"',
    "settings.state_dir": 'state_dir = "/data/wharfinger"',
    "settings.run_dir": 'run_dir = "/run/edge"',
    "settings.log_dir": 'log_dir = "/data/log"',
    "settings.cgroup_root": 'cgroup_root = "/sys/fs/cgroup/edge"',
    "settings.metrics_listen": 'metrics_listen = "0.0.0.0:9627"',
    "settings.metrics_labels": 'metrics_labels = ["team", "site"]',
    "settings.socket_group": 'socket_group = "ops"',
    "settings.view_group": 'view_group = "staff"',
    "settings.pressure_memory": 'pressure_memory = "full 1s 2s"',
    "settings.pressure_cpu": 'pressure_cpu = "some 1s 2s"',
    "settings.pressure_io": 'pressure_io = "full 1s 2s"',
    "settings.parallel_starts": "parallel_starts = 2",
    "settings.log_level": 'log_level = "debug"',
    "settings.tracing_endpoint": 'tracing_endpoint = "http://127.0.0.1:4318"',
    "settings.host_id": 'host_id = "shop-17"',
    "settings.shim_path": 'shim_path = "/opt/wharf-shim"',
    "settings.crun_path": 'crun_path = "/opt/crun"',
    "settings.runc_path": 'runc_path = "/opt/runc"',
    "settings.runsc_path": 'runsc_path = "/opt/runsc"',
}
