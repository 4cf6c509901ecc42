"""What a container that the shim started looks like from inside, and its exit record."""

# ruff: noqa: ASYNC110, ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

import anyio
import pytest

from runtime import linux, shim, wire
from runtime.wire import op
from tests.kernel import shimkit
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops, sh

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


@pytest.mark.parametrize("code", [0, 1, 7, 255])
async def test_the_exit_code_is_recorded(lab: Lab, code: int) -> None:
    record, _ = await lab.run(sh(lab.root, f"exit {code}"))
    assert (record.how, record.status, record.core) == ("exited", code, False)
    assert record == shim.read_exit(lab.run_dir)
    assert sorted(p.name for p in lab.run_dir.iterdir()) == ["exit", "init"]  # no temp file, no socket


async def test_the_signal_is_recorded(lab: Lab) -> None:
    running = await lab.start(sh(lab.root, "trap 'exit 3' TERM; while :; do sleep 1; done"))
    with anyio.fail_after(10):
        await running.signal(signal.SIGKILL)
        record = await running.wait_exit()
        await running.wait_gone()
    running.close()
    assert (record.how, record.status) == ("signaled", signal.SIGKILL)
    assert record.pid == running.pid
    assert record.started == pytest.approx(running.started)
    assert record.ended > record.started
    assert record.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def test_a_signal_that_init_handles_reaches_it(lab: Lab) -> None:
    running = await lab.start(sh(lab.root, "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"))
    await until(lambda: lab.log.exists() and "up" in lab.text())
    await running.signal(signal.SIGTERM)
    with anyio.fail_after(10):
        record = await running.wait_exit()
    running.close()
    assert (record.how, record.status) == ("exited", 3)


async def test_the_record_reads_the_same_by_the_event_and_by_the_file(lab: Lab) -> None:
    running = await lab.start(sh(lab.root, "exit 4"))
    record = await running.wait_exit()
    assert record == shim.read_exit(lab.run_dir)  # written before it was told
    running.close()


async def test_only_stdio_is_open_in_the_container(lab: Lab) -> None:
    _, text = await lab.run(
        sh(lab.root, "ls -l /proc/self/fd 2>/dev/null | grep -v '^total'; readlink /proc/self/fd/0")
    )
    fds = [line.split()[8] for line in text.splitlines() if "->" in line]
    assert fds == ["0", "1", "2"]  # ls's own directory is closed again when it reads the link
    assert text.splitlines()[-1] == "/dev/null"
    assert str(lab.run_dir) not in text


async def test_the_first_process_is_the_containers_program_alone_in_its_namespaces(lab: Lab) -> None:
    script = "readlink /proc/1/exe; echo $$; ls -d /proc/[0-9]* | wc -l; "
    script += "for n in net ipc uts; do readlink /proc/1/ns/$n; done"
    _, text = await lab.run(sh(lab.root, script))
    exe, pid, processes, *spaces = text.splitlines()
    assert exe == "/bin/busybox"
    assert (pid, int(processes) <= 4) == ("1", True)
    for space, kind in zip(spaces, ("net", "ipc", "uts"), strict=True):
        assert space != os.readlink(f"/proc/self/ns/{kind}")


async def test_the_cgroup_namespace_starts_at_the_leaf(lab: Lab) -> None:
    _, text = await lab.run([*root_ops(lab.root), *self_ops(), *exec_ops("cat", "/proc/self/cgroup")])
    assert text.splitlines()[-1] == "0::/"


async def test_credentials_are_as_asked(lab: Lab) -> None:
    caps = 1 << linux.CAPABILITIES["CAP_CHOWN"] | 1 << linux.CAPABILITIES["CAP_KILL"]
    ops = [*root_ops(lab.root), *self_ops(caps=caps), *exec_ops("cat", "/proc/self/status")]
    status = fields((await lab.run(ops))[1])
    assert {status[k] for k in ("CapPrm", "CapEff", "CapBnd")} == {f"{caps:016x}"}
    assert {status[k] for k in ("CapInh", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


async def test_a_user_has_its_groups_and_no_capabilities(lab: Lab) -> None:
    ops = [*root_ops(lab.root), *self_ops(uid=1000, gid=100, groups=(7, 8)), *exec_ops("cat", "/proc/self/status")]
    status = fields((await lab.run(ops))[1])
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["100"] * 4
    assert status["Groups"].split() == ["7", "8"]
    assert status["CapEff"] == status["CapPrm"] == "0" * 16
    assert status["CapBnd"] == f"{shimkit.DEFAULT_CAPS:016x}"


async def test_ambient_capabilities_survive_exec_of_a_user(lab: Lab) -> None:
    bit = 1 << linux.CAPABILITIES["CAP_NET_BIND_SERVICE"]
    ops = [one for one in self_ops(uid=1000) if one.name != "CAPS"]
    ops.append(op("CAPS", bounding=bit, effective=bit, permitted=bit, inheritable=bit, ambient=bit))
    status = fields((await lab.run([*root_ops(lab.root), *ops, *exec_ops("cat", "/proc/self/status")]))[1])
    assert status["CapAmb"] == status["CapEff"] == f"{bit:016x}"


async def test_a_user_can_open_its_stdout_again(lab: Lab) -> None:
    ops = [*root_ops(lab.root), *self_ops(uid=1000, gid=1000), *exec_ops("sh", "-c", "echo again > /dev/stdout")]
    record, text = await lab.run(ops)
    assert (record.status, text) == (0, "again\n")


async def test_signals_limits_and_scores_are_reset(lab: Lab) -> None:
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        script = "grep -E 'Sig(Blk|Ign|Pnd)' /proc/self/status; cat /proc/self/oom_score_adj; umask; "
        script += "cut -d' ' -f1,6 /proc/1/stat"
        _, text = await lab.run([*root_ops(lab.root), *self_ops(), *exec_ops("sh", "-c", script)])
    finally:
        signal.signal(signal.SIGPIPE, before)
    lines = text.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["0" * 16] * 3
    assert lines[3:] == ["0", "0022", "1 1"]  # its own session


async def test_limits_are_lowered_and_the_same_limit_is_no_error(lab: Lab) -> None:
    soft, hard = 64, 128
    rlimits = [op("RLIMIT", resource=linux.RLIMITS["nofile"], soft=soft, hard=hard)] * 2
    ops = [*root_ops(lab.root), *rlimits, *self_ops(), *exec_ops("sh", "-c", "ulimit -Sn; ulimit -Hn")]
    assert (await lab.run(ops))[1].split() == [str(soft), str(hard)]


async def test_the_environment_is_the_plans_and_path_is_searched(lab: Lab) -> None:
    os.environ["WHARF_SECRET"] = "no"
    try:
        ops = [*root_ops(lab.root), *self_ops(), *exec_ops("env", env={"PATH": "/nowhere:/bin", "A": "b=c d"})]
        assert sorted((await lab.run(ops))[1].split("\n")[:-1]) == ["A=b=c d", "PATH=/nowhere:/bin"]
    finally:
        del os.environ["WHARF_SECRET"]


async def test_a_missing_working_directory_is_made(lab: Lab) -> None:
    ops = [*root_ops(lab.root), *self_ops(cwd="/srv/app"), *exec_ops("pwd")]
    assert (await lab.run(ops))[1] == "/srv/app\n"
    assert (lab.root / "srv/app").is_dir()


async def test_names_loopback_and_sysctls_belong_to_the_container(lab: Lab) -> None:
    key = "net.ipv4.ip_unprivileged_port_start"
    host = Path("/proc/sys", key.replace(".", "/")).read_text()
    extra = [
        op("HOSTNAME", name="box"),
        op("DOMAINNAME", name="example"),
        op("SYSCTL", key=key, value="81"),
        op("SYSCTL", key="kernel/shm_rmid_forced", value="1"),
        op("LOOPBACK"),
    ]
    script = f"cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/{key.replace('.', '/')} \
/proc/sys/kernel/shm_rmid_forced; ip -o link show lo"
    record, text = await lab.run([*root_ops(lab.root, extra=extra), *self_ops(), *exec_ops("sh", "-c", script)])
    assert record.status == 0
    assert text.splitlines()[:4] == ["box", "example", "81", "1"]
    assert "UP" in text.splitlines()[4]
    assert Path("/proc/sys", key.replace(".", "/")).read_text() == host


async def test_mounts_have_their_attributes(lab: Lab, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "sub").mkdir(parents=True)
    (shared / "file").write_text("text\n")
    safe = shimkit.SAFE
    extra = [
        shimkit.mount("sysfs", "/sys", safe | linux.MOUNT_ATTR_RDONLY),
        shimkit.mount("cgroup2", "/sys/fs/cgroup", safe | linux.MOUNT_ATTR_RDONLY, flags=0),
        shimkit.mount("mqueue", "/dev/mqueue", safe),
        shimkit.mount("tmpfs", "/run", safe | linux.MOUNT_ATTR_NOATIME, "mode=1770,size=8k,uid=5"),
        shimkit.bind(shared, "/data", linux.MOUNT_ATTR_RDONLY),
        shimkit.bind(shared / "file", "/etc/deep/file", flags=wire.BIND_FILE),
    ]
    late = [op("ROOTATTR", attr_set=linux.MOUNT_ATTR_RDONLY, propagation=0)]
    script = (
        "cat /proc/mounts; cat /etc/deep/file; echo more >> /etc/deep/file; touch /data/x || echo data-ro; "
        "touch /x || echo ro; stat -c '%a %u' /run"
    )
    _, text = await lab.run([*root_ops(lab.root, extra=extra, late=late), *self_ops(), *exec_ops("sh", "-c", script)])
    lines = text.splitlines()
    mounts = {line.split()[1]: line.split() for line in lines if line.count(" ") == 5}
    for path in ("/sys", "/sys/fs/cgroup"):
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounts[path][3].split(","))
    assert "noatime" in mounts["/run"][3].split(",")
    assert mounts["/sys/fs/cgroup"][2] == "cgroup2"
    assert mounts["/dev/mqueue"][2] == "mqueue"
    assert [line for line in lines if line in ("text", "data-ro", "ro", "1770 5")] == [
        "text",
        "data-ro",
        "ro",
        "1770 5",
    ]
    assert (shared / "file").read_text() == "text\nmore\n"
    assert not (shared / "x").exists()


async def test_masks_and_read_only_paths(lab: Lab) -> None:
    (lab.root / "etc/secrets").mkdir()
    (lab.root / "etc/secrets/key").write_text("secret\n")
    (lab.root / "etc/key").write_text("secret\n")
    late = [
        *(
            op("MASK", path=p)
            for p in ("/etc/key", "/etc/secrets", "/proc/keys", "/proc/acpi", "/sys/firmware", "/no/such")
        ),
        *(op("READONLY", path=p) for p in ("/proc/sys", "/tmp", "/not/there")),
    ]
    script = (
        "cat /etc/key; ls -A /etc/secrets; cat /proc/keys; touch /tmp/x || echo tmp-ro; "
        "touch /etc/secrets/x || echo mask-ro; echo 1 > /proc/sys/kernel/shm_rmid_forced || echo sys-ro; "
        "echo lost > /etc/key && stat -c %t:%T /etc/key; grep -c ' /proc/sys ' /proc/mounts"
    )
    _, text = await lab.run([*root_ops(lab.root, late=late), *self_ops(), *exec_ops("sh", "-c", script)])
    assert [x for x in text.splitlines() if not x.startswith(("sh:", "touch:"))] == [
        "tmp-ro",
        "mask-ro",
        "sys-ro",
        "1:3",
        "1",
    ]
    assert (lab.root / "etc/key").read_text() == "secret\n"


async def test_the_hosts_mounts_are_out_of_reach_and_nothing_of_ours_stays_on_the_host(lab: Lab) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    _, text = await lab.run([*root_ops(lab.root), *self_ops(), *exec_ops("cat", "/proc/self/mountinfo")])
    assert [line.split()[4] for line in text.splitlines()] == ["/", "/proc", "/dev", "/dev/pts", "/dev/shm"]
    assert Path("/proc/self/mountinfo").read_text() == before


def bpf(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("<HBBI", *one) for one in instructions)


KILL_MKDIR = bpf(
    (0x20, 0, 0, 0), (0x15, 0, 1, 83), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)
)  # x86_64 mkdir: EPERM


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86_64")
@pytest.mark.parametrize("nnp", [True, False])
async def test_the_filter_is_applied_with_and_without_no_new_privs(lab: Lab, nnp: bool) -> None:
    ops = [one for one in self_ops() if nnp or one.name != "NNP"]
    ops.append(op("SECCOMP", flags=0, filter=KILL_MKDIR))
    script = "mkdir /tmp/x || echo refused; grep -E 'Seccomp:|NoNew' /proc/self/status"
    _, text = await lab.run([*root_ops(lab.root), *ops, *exec_ops("sh", "-c", script)])
    status = fields(text)
    assert (status["NoNewPrivs"], status["Seccomp"]) == (str(int(nnp)), "2")
    assert "refused" in text
    assert not (lab.root / "tmp/x").exists()


@pytest.mark.parametrize("host_id", [100000, 0])
async def test_a_user_namespace(lab: Lab, host_id: int) -> None:
    for path in [lab.root, *lab.root.rglob("*")]:
        os.chown(path, host_id, host_id, follow_symlinks=False)
    for path in list(lab.root.parents)[:3]:
        path.chmod(0o755)
    text = f"0 {host_id} 65536\n"
    spaces = shimkit.NAMESPACES | linux.CLONE_NEWUSER
    base = root_ops(lab.root, namespaces=spaces)
    ops = [base[0], op("USERMAP", uid_map=text, gid_map=text), *base[1:]]
    ops = [
        shimkit.bind(one["path"], str(one["path"]), flags=wire.BIND_FILE) if one.name == "DEVNODE" and i % 2 else one  # type: ignore[arg-type]
        for i, one in enumerate(ops)
    ]
    script = "id -u; cat /proc/self/uid_map; touch /tmp/mine; echo x > /dev/null; ls /dev; echo again > /dev/stdout"
    record, out = await lab.run([*ops, *self_ops(), *exec_ops("sh", "-c", script)])
    assert record.status == 0, out
    lines = out.split()
    assert lines[:4] == ["0", "0", str(host_id), "65536"]
    assert {"null", "zero", "pts", "again"} <= set(lines)
    assert (lab.root / "tmp/mine").stat().st_uid == host_id


async def test_a_network_namespace_by_fd_is_joined(lab: Lab) -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lab.extra_fds[wire.TAG_NETNS] = fd
        _, text = await lab.run([*root_ops(lab.root), *self_ops(), *exec_ops("readlink", "/proc/self/ns/net")])
    finally:
        os.close(fd)
    assert text.strip() == os.readlink("/proc/self/ns/net")


async def test_namespaces_by_path_are_joined(lab: Lab) -> None:
    pid = os.getpid()
    ops = root_ops(lab.root)
    joins = [
        op("JOINNS", kind=linux.CLONE_NEWUTS, path=f"/proc/{pid}/ns/uts"),
        op("JOINNS", kind=linux.CLONE_NEWPID, path=f"/proc/{pid}/ns/pid"),
    ]
    script = "readlink /proc/self/ns/uts; [ $$ = 1 ] || echo host-pid"
    _, text = await lab.run([ops[0], *joins, *ops[1:], *self_ops(), *exec_ops("sh", "-c", script)])
    assert text.split() == [os.readlink("/proc/self/ns/uts"), "host-pid"]


async def test_processes_that_init_leaves_behind_die_with_it(lab: Lab) -> None:
    spaces = shimkit.NAMESPACES & ~linux.CLONE_NEWPID  # with its own pid namespace the kernel would do it
    ops = [*root_ops(lab.root, namespaces=spaces), *self_ops()]
    ops += exec_ops(
        "sh",
        "-c",
        "setsid sleep 1000 & setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' & sleep 0.3; exit 5",
    )
    record, _ = await lab.run(ops)
    assert record.status == 5
    assert (lab.leaf / "cgroup.procs").read_text() == ""
    lab.leaf.rmdir()


async def test_a_cgroup_that_was_killed_once_takes_a_container(lab: Lab) -> None:
    """Linux 6.18 kills what is cloned into such a cgroup, at birth."""
    lab.leaf.mkdir(parents=True)
    (lab.leaf / "cgroup.kill").write_text("1")
    record, text = await lab.run([*root_ops(lab.root), *self_ops(), *exec_ops("cat", "/proc/self/cgroup")])
    assert (record.how, record.status) == ("exited", 0)
    assert text.splitlines()[-1] == "0::/"


def fields(status: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in status.splitlines())
    return {key: value.strip() for key, _, value in pairs}


async def until(ready: object, limit: float = 10.0) -> None:
    assert callable(ready)
    with anyio.fail_after(limit):
        while not ready():
            await anyio.sleep(0.02)
