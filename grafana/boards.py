"""What the four dashboards show: the fleet, one host, one container, the daemon. Pure data."""

from __future__ import annotations

from grafana.panels import AMBER, GREEN, RED, Board, Panel, Query, Row, annotation, query_variable

INSTANCE = query_variable("instance", "label_values(wharfinger_build_info, instance)", "Host")
ONE_HOST = query_variable("instance", "label_values(wharfinger_build_info, instance)", "Host", multi=False)
NAMES = query_variable("name", 'label_values(wharfinger_container_info{instance=~"$instance"}, name)', "Container")
ONE_NAME = query_variable(
    "name", 'label_values(wharfinger_container_info{instance=~"$instance"}, name)', "Container", multi=False
)
ANY = 'instance=~"$instance"'
PICK = f'{ANY},name=~"$name"'
AUTOMATIC = 'reason!~"manual|update"'
RATE = "$__rate_interval"
NONE_IS_GOOD = ((None, GREEN), (1, RED))
SHARE = ((None, GREEN), (0.75, AMBER), (0.9, RED))

RESTARTED = annotation(
    "Restarts",
    f"sum by (name) (changes(wharfinger_container_generation{{{PICK}}}[2m])) > 0",
    AMBER,
    "{{name}} began a new run",
)
KILLED = annotation(
    "OOM kills",
    f"sum by (name) (increase(container_oom_events_total{{{PICK}}}[2m])) > 0",
    RED,
    "{{name}}: OOM kill",
)


def quantile(histogram: str, by: str) -> str:
    """Over ten minutes: an edge host decides seldom."""
    return f"histogram_quantile(0.99, sum by (le, {by}) (rate({histogram}_bucket{{{ANY}}}[10m])))"


def stat(title: str, description: str, expr: str, unit: str = "short", **more: object) -> Panel:
    steps = more.get("steps", NONE_IS_GOOD)
    assert isinstance(steps, tuple)
    return Panel(title, unit, description, (Query(expr),), "stat", width=4, height=4, steps=steps)


def counts(scope: str) -> tuple[Panel, ...]:
    return (
        stat("Running", "Containers that run now.",
             f'sum(wharfinger_container_state{{{scope},state="running"}})', steps=((None, GREEN),)),
        stat("Wanted and not running", "Containers that should run and do not.",
             f"sum((wharfinger_container_desired_running{{{scope}}} == 1) unless on (instance, name) "
             f'(wharfinger_container_state{{{scope},state="running"}} == 1)) or vector(0)'),
        stat("Crash-looping", "Containers that ended too often in the window of their restart policy.",
             f"sum(wharfinger_container_crash_looping{{{scope}}})"),
        stat("Unhealthy", "Containers whose health check fails.",
             f'sum(wharfinger_container_health{{{scope},status="unhealthy"}})'),
        stat("OOM kills, 24 h", "Kills by the kernel's OOM killer in the last 24 hours.",
             f"sum(increase(container_oom_events_total{{{scope}}}[24h]))"),
        stat("Refused definitions", "Definition files that are refused now.",
             f"sum(wharfinger_definition_errors{{{ANY}}})"),
    )  # fmt: skip


def usage(scope: str) -> tuple[Panel, ...]:
    return (
        Panel("CPU", "short", "Cores in use by each container.",
              (Query(f"sum by (instance, name) (rate(container_cpu_usage_seconds_total{{{scope}}}[{RATE}]))",
                     "{{name}}"),)),
        Panel("Memory", "bytes", "Anonymous memory of each container: what cannot be reclaimed.",
              (Query(f"container_memory_rss{{{scope}}}", "{{name}}"),)),
        Panel("Disk writes", "Bps", "Bytes a second that each container writes to block devices.",
              (Query(f"sum by (instance, name) (rate(container_fs_writes_bytes_total{{{scope}}}[{RATE}]))",
                     "{{name}}"),)),
        Panel("Disk reads", "Bps", "Bytes a second that each container reads from block devices.",
              (Query(f"sum by (instance, name) (rate(container_fs_reads_bytes_total{{{scope}}}[{RATE}]))",
                     "{{name}}"),)),
    )  # fmt: skip


FLEET = Board(
    "wharfinger-fleet",
    "Wharfinger: fleet",
    "All hosts and their containers: what runs, what does not, and who uses what.",
    (INSTANCE, NAMES),
    (
        Row("Now", counts(PICK)),
        Row(
            "Ends and restarts",
            (
                Panel("Containers by state", "short", "How many containers are in each state.",
                      (Query(f"sum by (state) (wharfinger_container_state{{{PICK}}})", "{{state}}"),), stacked=True),
                Panel("Restarts in an hour", "short", "Restarts that nobody asked for, by container and reason.",
                      (Query("sum by (instance, name, reason) "
                             f"(increase(wharfinger_container_restarts_total{{{PICK},{AUTOMATIC}}}[1h])) > 0",
                             "{{name}} {{reason}}"),)),
                Panel("Not as it should be", "short", "Containers that should run and do not, with their state.",
                      (Query(f"(wharfinger_container_state{{{PICK}}} == 1) and on (instance, name) "
                             f'((wharfinger_container_desired_running{{{PICK}}} == 1) unless on (instance, name) '
                             f'(wharfinger_container_state{{{PICK},state="running"}} == 1))', table=True),),
                      "table", hide=("Value",)),
                Panel("OOM kills in an hour", "short", "OOM kills by container and by whose limit was hit.",
                      (Query("sum by (instance, name, scope) "
                             f"(increase(wharfinger_container_oom_kills_total{{{PICK}}}[1h])) > 0",
                             "{{name}} {{scope}}"),)),
            ),
        ),
        Row("Use", usage(PICK)),
    ),
    (RESTARTED, KILLED),
)  # fmt: skip

HOST = Board(
    "wharfinger-host",
    "Wharfinger: host",
    "One host: the share of its processors and memory that its containers take, and where they wait.",
    (ONE_HOST, NAMES),
    (
        Row("Now", counts(PICK)),
        Row(
            "The host's share",
            (
                Panel("Processors in use", "percentunit", "CPU time of all containers as a share of the host's.",
                      (Query(f"sum(rate(container_cpu_usage_seconds_total{{{ANY}}}[{RATE}])) / "
                             f"sum(machine_cpu_cores{{{ANY}}})", "containers"),), maximum=1, steps=SHARE),
                Panel("Memory in use", "percentunit", "Anonymous memory of all containers as a share of the host's.",
                      (Query(f"sum(container_memory_rss{{{ANY}}}) / sum(machine_memory_bytes{{{ANY}}})",
                             "containers"),), maximum=1, steps=SHARE),
            ),
        ),
        Row("Use", usage(PICK)),
        Row(
            "Waiting",
            tuple(
                Panel(f"{word} pressure", "percentunit",
                      f"Share of the time in which tasks of a container waited for {what}.",
                      (Query("sum by (name) (rate(container_pressure_"
                             f"{resource}_waiting_seconds_total{{{PICK}}}[{RATE}]))", "{{name}}"),),
                      width=8, maximum=1, steps=((None, GREEN), (0.25, AMBER), (0.5, RED)))
                for resource, word, what in (("cpu", "CPU", "a processor"), ("memory", "Memory", "memory"),
                                             ("io", "IO", "a disk"))
            ),
        ),
    ),
    (RESTARTED, KILLED),
)  # fmt: skip

CONTAINER = Board(
    "wharfinger-container",
    "Wharfinger: container",
    "One container: its runs, its limits, and what it waits for.",
    (ONE_HOST, ONE_NAME),
    (
        Row(
            "Now",
            (
                Panel("State", "short", "The state that the supervisor sees.",
                      (Query(f"wharfinger_container_state{{{PICK}}} == 1", "{{state}}"),), "stat", width=4, height=4,
                      steps=((None, GREEN),)),
                stat("Runs", "Number of the latest run, counted from the first one.",
                     f"max(wharfinger_container_generation{{{PICK}}})", steps=((None, GREEN),)),
                stat("Last exit code", "Exit code of the last run; 128 and the signal's number when one ended it.",
                     f"max(wharfinger_container_last_exit_code{{{PICK}}})"),
                stat("Up for", "Time since the present run began.",
                     f"time() - max(container_start_time_seconds{{{PICK}}})", "s", steps=((None, GREEN),)),
                stat("Next try in", "Pause before the next restart; 0 when none is pending.",
                     f"max(wharfinger_container_backoff_seconds{{{PICK}}})", "s", steps=((None, GREEN), (1, AMBER))),
                stat("OOM kills, 24 h", "Kills by the kernel's OOM killer in the last 24 hours.",
                     f"sum(increase(container_oom_events_total{{{PICK}}}[24h]))"),
            ),
        ),
        Row(
            "CPU and memory",
            (
                Panel("CPU", "short", "Cores in use, in user and in system mode, and the quota.",
                      (Query(f"rate(container_cpu_user_seconds_total{{{PICK}}}[{RATE}])", "user"),
                       Query(f"rate(container_cpu_system_seconds_total{{{PICK}}}[{RATE}])", "system"),
                       Query(f"container_spec_cpu_quota{{{PICK}}} / container_spec_cpu_period{{{PICK}}}", "quota"))),
                Panel("Throttled periods", "percentunit", "Share of CPU periods in which the quota held it back.",
                      (Query(f"rate(container_cpu_cfs_throttled_periods_total{{{PICK}}}[{RATE}]) / "
                             f"(rate(container_cpu_cfs_periods_total{{{PICK}}}[{RATE}]) > 0)", "throttled"),),
                      maximum=1, steps=((None, GREEN), (0.25, AMBER))),
                Panel("Memory", "bytes", "Anonymous, file and kernel memory, and the limit.",
                      (Query(f"container_memory_rss{{{PICK}}}", "anonymous"),
                       Query(f"container_memory_cache{{{PICK}}}", "file"),
                       Query(f"container_memory_kernel_usage{{{PICK}}}", "kernel"),
                       Query(f"container_spec_memory_limit_bytes{{{PICK}}} > 0", "limit"))),
                Panel("Memory events", "short", "How often the limits were met, in a minute.",
                      (Query(f"increase(container_memory_events_high_total{{{PICK}}}[1m])", "memory.high"),
                       Query(f"increase(container_memory_events_max_total{{{PICK}}}[1m])", "memory.max"),
                       Query(f"increase(container_oom_events_total{{{PICK}}}[1m])", "OOM kills"))),
            ),
        ),
        Row(
            "Waiting",
            tuple(
                Panel(f"{word} pressure", "percentunit",
                      f"Share of the time in which some, or all, of its tasks waited for {what}.",
                      (Query(f"rate(container_pressure_{resource}_waiting_seconds_total{{{PICK}}}[{RATE}])", "some"),
                       Query(f"rate(container_pressure_{resource}_stalled_seconds_total{{{PICK}}}[{RATE}])", "all")),
                      width=8, maximum=1, steps=((None, GREEN), (0.25, AMBER), (0.5, RED)))
                for resource, word, what in (("cpu", "CPU", "a processor"), ("memory", "Memory", "memory"),
                                             ("io", "IO", "a disk"))
            ),
        ),
        Row(
            "Disk, network, processes",
            (
                Panel("Disk", "Bps", "Bytes a second from and to block devices.",
                      (Query(f"sum by (device) (rate(container_fs_reads_bytes_total{{{PICK}}}[{RATE}]))",
                             "read {{device}}"),
                       Query(f"sum by (device) (rate(container_fs_writes_bytes_total{{{PICK}}}[{RATE}]))",
                             "write {{device}}"))),
                Panel("Network", "Bps", "Bytes a second of its own network interfaces.",
                      (Query(f"sum by (interface) (rate(container_network_receive_bytes_total{{{PICK}}}[{RATE}]))",
                             "in {{interface}}"),
                       Query(f"sum by (interface) (rate(container_network_transmit_bytes_total{{{PICK}}}[{RATE}]))",
                             "out {{interface}}"))),
                Panel("Threads", "short", "Threads of all its processes, and the limit.",
                      (Query(f"container_threads{{{PICK}}}", "threads"),
                       Query(f"container_threads_max{{{PICK}}} > 0", "limit"))),
                Panel("Log", "Bps", "Bytes a second of its output, and of what could not be kept.",
                      (Query(f"rate(wharfinger_container_log_bytes_total{{{PICK}}}[{RATE}])", "taken"),
                       Query(f"rate(wharfinger_container_log_dropped_bytes_total{{{PICK}}}[{RATE}])", "dropped"))),
            ),
        ),
        Row(
            "Runs",
            (
                Panel("Ends in an hour", "short", "Ends of its main process, by cause.",
                      (Query(f"increase(wharfinger_container_exits_total{{{PICK}}}[1h]) > 0", "{{reason}}"),)),
                Panel("Health checks in a minute", "short", "Health checks by result.",
                      (Query(f"increase(wharfinger_container_health_checks_total{{{PICK}}}[1m])", "{{result}}"),)),
                Panel("Room", "bytes", "Disk space that its root and its log files take, looked at once a minute.",
                      (Query(f"container_fs_usage_bytes{{{PICK}}}", "root, on {{device}}"),
                       Query(f"wharfinger_container_log_size_bytes{{{PICK}}}", "log files"))),
            ),
        ),
    ),
    (RESTARTED, KILLED),
)  # fmt: skip

DAEMON = Board(
    "wharfinger-daemon",
    "Wharfinger: supervisor",
    "The supervisor itself: its cost, its delays, what it could not read.",
    (INSTANCE,),
    (
        Row(
            "Now",
            (
                stat("Containers", "Containers in the last collection.",
                     f"sum(wharfinger_scrape_containers{{{ANY}}})", steps=((None, GREEN),)),
                stat("Refused definitions", "Definition files that are refused now.",
                     f"sum(wharfinger_definition_errors{{{ANY}}})"),
                stat("Failed reloads", "Hosts whose last reload of definitions failed.",
                     f"count(wharfinger_config_last_reload_successful{{{ANY}}} == 0) or vector(0)"),
                stat("Watches polled", "Hosts where the definition directory is polled, for want of inotify.",
                     f"sum(wharfinger_definition_watch_degraded{{{ANY}}})"),
                stat("Controllers missing", "cgroup controllers that hosts lack, of cpu, memory, io and pids.",
                     f'count(wharfinger_cgroup_controller_enabled{{{ANY},controller=~"cpu|memory|io|pids"}} == 0)'
                     " or vector(0)"),
                stat("Up for", "Time since the supervisor began.",
                     f"time() - max(process_start_time_seconds{{{ANY}}})", "s", steps=((None, GREEN),)),
            ),
        ),
        Row(
            "Cost",
            (
                Panel("CPU", "percentunit", "Share of one processor that the supervisor takes.",
                      (Query(f"rate(process_cpu_seconds_total{{{ANY}}}[{RATE}])", "{{instance}}"),)),
                Panel("Memory", "bytes", "Resident memory of the supervisor.",
                      (Query(f"process_resident_memory_bytes{{{ANY}}}", "{{instance}}"),)),
                Panel("Descriptors", "percentunit", "Open descriptors as a share of the limit.",
                      (Query(f"process_open_fds{{{ANY}}} / process_max_fds{{{ANY}}}", "{{instance}}"),), maximum=1,
                      steps=SHARE),
                Panel("Event loop", "s", "Largest delay of the event loop between two scrapes.",
                      (Query(f"wharfinger_event_loop_lag_seconds{{{ANY}}}", "{{instance}}"),),
                      steps=((None, GREEN), (0.1, AMBER), (1, RED))),
            ),
        ),
        Row(
            "Delays",
            (
                Panel("Decisions", "s", "Time until a decision is stored, 99 of 100, by kind.",
                      (Query(quantile("wharfinger_decision_seconds", "kind"), "{{kind}}"),)),
                Panel("Effects", "s", "Time from a decision to its effect, 99 of 100, by kind.",
                      (Query(quantile("wharfinger_effect_seconds", "kind"), "{{kind}}"),)),
                Panel("Timers", "s", "How late timers fire, 99 of 100.",
                      (Query(quantile("wharfinger_loop_lag_seconds", "instance"), "{{instance}}"),)),
                Panel("Events lost", "short", "Events that the disk did not take, in a minute.",
                      (Query(f"increase(wharfinger_events_dropped_total{{{ANY}}}[1m])", "{{instance}}"),)),
            ),
        ),
        Row(
            "Collections",
            (
                Panel("Disk left", "percentunit", "Share of the disk that is left for state and logs.",
                      (Query(f"wharfinger_disk_free_bytes{{{ANY}}} / wharfinger_disk_size_bytes{{{ANY}}}",
                             "{{instance}} {{holds}}"),), maximum=1,
                      steps=((None, RED), (0.1, AMBER), (0.2, GREEN))),
                Panel("Duration", "s", "Time of the last collection, by phase.",
                      (Query(f"wharfinger_scrape_duration_seconds{{{ANY}}}", "{{instance}} {{phase}}"),)),
                Panel("Failed reads", "short", "cgroup files that could not be read in a minute, by file and errno.",
                      (Query(f"increase(wharfinger_scrape_errors_total{{{ANY}}}[1m])", "{{file}} {{errno}}"),)),
                Panel("Left out", "short", "Containers, devices and labels left out in a minute, by cause.",
                      (Query(f"increase(wharfinger_samples_dropped_total{{{ANY}}}[1m])", "{{reason}}"),)),
                Panel("Pressure notices", "short", "Pressure notices of the kernel in a minute.",
                      (Query(f"sum by (resource) (increase(wharfinger_container_pressure_events_total{{{ANY}}}[1m]))",
                             "{{resource}}"),)),
            ),
        ),
    ),
)  # fmt: skip

BOARDS = {"fleet": FLEET, "host": HOST, "container": CONTAINER, "daemon": DAEMON}
