"""The mutants of scripts/mutants.py: what is broken, where, and the tests of which one must fail."""

from __future__ import annotations

from dataclasses import dataclass

K = "tests/kernel/"
TAKEOVER = f"{K}test_shim_takeover.py"
TABLE = f"{K}test_hostile_table.py"
PROC = f"{K}test_hostile_proc.py"
HOSTILE = f"{K}test_shim_hostile.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old`, once in `file`, becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    vm: bool = False  # the tests need controllers, so they run in the VM


def native(name: str, file: str, old: str, new: str, *tests: str, vm: bool = False) -> Mutant:
    return Mutant(name, f"runtime/native/{file}", old, new, tests, vm)


MUTANTS = (
    # what keeps a container that lost its shim
    native(
        "writers_have_no_reader_of_their_own",
        "launch.c",
        "		keep_readable(&a->out[i][1], ask->proc);\n",
        "",
        f"{TAKEOVER}::test_who_writes_while_nobody_reads_waits_and_loses_nothing",
    ),
    native(
        "two_shims_may_have_a_run",
        "takeover.c",
        "flock(s->lock, LOCK_EX | LOCK_NB) < 0",
        "flock(s->lock, LOCK_SH | LOCK_NB) < 0",
        f"{TAKEOVER}::test_a_run_has_one_shim",
    ),
    native(
        "a_recorded_end_is_recorded_again",
        "takeover.c",
        'if (faccessat(s->run_dir, "exit", F_OK, AT_SYMLINK_NOFOLLOW) == 0)',
        "if (0)",
        f"{TAKEOVER}::test_a_recorded_end_is_not_recorded_again",
    ),
    native(
        "a_reaped_init_is_not_asked_for",
        "takeover.c",
        "if (ioctl(s->pidfd, SYS_PIDFD_GET_INFO, &info) == 0 &&",
        "if (0 &&",
        f"{TAKEOVER}::test_an_end_between_two_shims_is_not_lost",
    ),
    native(
        "proc_of_a_number_is_believed",
        "takeover.c",
        "if (!pid || pid_of(s->proc, s->pidfd) != pid)",
        "if (pid_of(s->proc, s->pidfd) != pid)",
        f"{TAKEOVER}::test_a_number_in_the_note_is_not_asked_once_its_process_was_reaped",
    ),
    Mutant(
        "a_pid_is_not_compared_with_its_start",
        "runtime/orphan.py",
        "_ticks(init.pid) == init.start_ticks and ",
        "",
        (f"{TAKEOVER}::test_a_number_alone_proves_nothing",),
    ),
    Mutant(
        "a_pid_of_another_cgroup_is_ours",
        "runtime/orphan.py",
        " and _within(init.pid, leaf)",
        "",
        (f"{TAKEOVER}::test_a_number_alone_proves_nothing",),
    ),
    # paths inside a root
    native(
        "links_lead_out_of_the_root",
        "inroot.c",
        "#define IN_ROOT ((uint64_t)(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))",
        "#define IN_ROOT ((uint64_t)(RESOLVE_NO_MAGICLINKS))",
        TABLE,
    ),
    native(
        "magic_links_are_followed",
        "inroot.c",
        "#define IN_ROOT ((uint64_t)(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))",
        "#define IN_ROOT ((uint64_t)(RESOLVE_IN_ROOT))",
        TABLE,
        PROC,
    ),
    native(
        "proc_sys_and_dev_may_be_links",
        "inroot.c",
        '	return is_below(path, "proc") || is_below(path, "sys") || is_below(path, "dev");',
        "	(void)is_below;\n	return path == NULL;",
        TABLE,
    ),
    native(
        "a_link_may_lead_to_proc",
        "inroot.c",
        "if (led >= 0 && is_trusted_thing(root, led)) {",
        "if (led >= 0 && root == -2 && is_trusted_thing(root, led)) {",
        TABLE,
    ),
    native(
        "what_was_made_may_be_a_link",
        "console.c",
        "if (S_ISLNK(st.st_mode) || S_ISDIR(st.st_mode))",
        "if (S_ISDIR(st.st_mode))",
        f"{K}test_shim_tty.py",
        TABLE,
    ),
    native(
        "the_hosts_root_stays_above",
        "ops_mount.c",
        'if (sys_umount2(".", WHARF_MNT_DETACH) < 0)',
        'if (0 && sys_umount2(".", WHARF_MNT_DETACH) < 0)',
        TABLE,
    ),
    native(
        "anything_may_be_bound_at_proc",
        "ops_mount.c",
        'if (strcmp(op->a[1].s.p, "/proc") == 0 &&',
        'if (strcmp(op->a[1].s.p, "/proc/") == 0 &&',
        f"{K}test_shim_spec_oci.py",
    ),
    native(
        "labels_are_written_anywhere",
        "ops_cred.c",
        "if (fs.f_type != PROC_SUPER_MAGIC) /*",
        "if (fs.f_type == 1) /*",
        f"{PROC}::test_a_label_is_written_to_a_real_proc_only",
    ),
    native(
        "a_shim_starts_with_any_proc",
        "start.c",
        "fstatfs(s->proc, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC",
        "fstatfs(s->proc, &fs) < 0",
        f"{PROC}::test_our_programs_do_not_start_with_another_proc",
    ),
    native(
        "a_working_directory_may_be_outside",
        "ops_cred.c",
        "if (syscall(SYS_getcwd, cwd, sizeof cwd) < 0 || cwd[0] != '/')",
        "if (syscall(SYS_getcwd, cwd, sizeof cwd) < 0)",
        f"{PROC}::test_in_the_hosts_pid_namespace_roots_of_others_are_not_reached",
    ),
    native(
        "fds_of_the_host_stay_open",
        "child.c",
        "if (sys_close_range((unsigned)end, ~0U, 0) < 0)",
        "if (0 && sys_close_range((unsigned)end, ~0U, 0) < 0)",
        f"{PROC}::test_no_fd_of_the_host_is_a_working_directory",
        f"{K}test_launch.py",
    ),
    native(
        "the_images_null_is_stdin",
        "child.c",
        """ || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
		return;
	AUTOFD null = in_root(c->root, "/dev/null", O_RDWR | O_NOFOLLOW | O_NOCTTY);
	if (null >= 0 && fstat(null, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
""",
        """)
		return;
	AUTOFD null = in_root(c->root, "/dev/null", O_RDWR | O_NOFOLLOW | O_NOCTTY);
	if (null >= 0)
""",
        f"{HOSTILE}::test_a_swapped_null_device_is_not_what_masks",
    ),
    native(
        "our_program_can_be_written_to",
        "startmsg.c",
        "{.attr_set = MOUNT_ATTR_RDONLY}",
        "{.attr_set = MOUNT_ATTR_NODEV}",
        f"{HOSTILE}::test_an_image_that_runs_our_program_cannot_write_to_it",
    ),
    native(
        "holes_are_filled",
        "copyup.c",
        "off_t data = lseek(from, at, SEEK_DATA);",
        "off_t data = at;",
        f"{PROC}::test_a_huge_file_below_a_tmpfs_stays_a_hole",
    ),
    # launches that fail, and ends
    native(
        "what_is_undone_lives_on",
        "launch.c",
        "	sys_pidfd_signal(pidfd, SIGKILL);\n	struct pollfd p = {.fd = pidfd, .events = POLLIN};",
        "	struct pollfd p = {.fd = pidfd, .events = 0};",
        f"{K}test_shim_faults.py::test_a_start_that_is_given_up_is_undone",
        f"{K}test_launch_hooks.py",
    ),
    native(
        "a_child_outlives_its_shim",
        "child.c",
        "	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);",
        "	prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);",
        f"{K}test_launch_hooks.py::test_a_hook_dies_with_its_shim",
    ),
    native(
        "a_child_that_was_killed_at_birth_is_not_tried_again",
        "launch.c",
        "	if (err == AGAIN_LATE)\n		err = attempt_launch(plan, ask, done, true, f);",
        "",
        f"{K}test_shim_launch.py",
        f"{K}test_shim_faults.py",
    ),
    native(
        "a_cgroup_that_takes_no_clone_is_an_error",
        "launch.c",
        "if (pid >= 0 ||\n",
        "if (pid >= -1 ||\n",
        f"{K}test_shim_exec.py::test_a_process_goes_where_init_went",
        vm=True,
    ),
    native(
        "the_shim_ends_before_the_log_does",
        "shim.c",
        "bool drained = s->logs.streams[0].eof && s->logs.streams[1].eof && !children;",
        "bool drained = !children || now;",
        f"{K}test_shim_logs.py",
    ),
    native(
        "what_init_left_behind_lives_on",
        "shim.c",
        '	write_small(s->cgroup, "cgroup.kill", "1"); /* what init left behind */\n',
        "",
        f"{K}test_shim_launch.py",
        f"{K}test_shim_exec.py",
    ),
    native(
        "the_record_is_not_tried_again",
        "shim.c",
        "	if (s->ended && !s->saved && now >= s->retry_at)\n		save_record(s, now);\n",
        "",
        f"{K}test_shim_faults.py::test_the_exit_record_waits_for_room_on_a_full_disk",
    ),
    native(
        "a_hook_over_its_time_leaves_its_children",
        "hooks.c",
        "		kill(-pid, SIGKILL); /*",
        "		/*",
        f"{K}test_launch_hooks.py",
    ),
    # who may say what
    native(
        "anybody_may_ask_a_shim",
        "sock.c",
        " || peer.uid != 0)",
        ")",
        f"{K}test_shim_protocol.py::test_only_root_is_let_in",
    ),
    native(
        "anybody_may_start_what_was_created",
        "child.c",
        " && peer.uid == parent.uid;",
        ";",
        f"{K}test_launch.py",
    ),
    native(
        "a_packet_may_be_of_any_size",
        "sock.c",
        "bool good = n == (ssize_t)sizeof req && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC));",
        "bool good = n > 0;",
        f"{K}test_shim_protocol.py",
    ),
    native(
        "input_may_be_longer_than_its_place",
        "attach.c",
        "if (n <= 0 || n > 1 + INPUT_MAX) {",
        "if (n <= 0) {",
        f"{K}test_shim_tty.py",
    ),
    native(
        "a_plan_may_change_while_it_is_read",
        "plan.c",
        "if (have < 0 || (have & seals) != seals)",
        "if (have < 0 && seals)",
        f"{K}test_shim_faults.py::test_a_plan_that_is_not_sealed_is_refused",
    ),
    native(
        "another_runtime_may_name_any_pid",
        "peer.c",
        "	if (!in_leaf(s, done->pid))",
        "	if (!in_leaf(s, done->pid) && done->pid < 0)",
        f"{K}test_peer.py",
    ),
    Mutant(
        "a_listener_of_another_user_is_believed",
        "runtime/shimlink.py",
        "    if uid != os.geteuid():",
        "    if uid < 0:",
        (f"{K}test_shim_protocol.py::test_a_listener_that_is_not_root_is_not_believed",),
    ),
    # the daemon
    Mutant(
        "two_daemons_may_have_a_state",
        "supervisor/store_file.py",
        "        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("tests/unit/supervisor/test_store_files.py",),
    ),
    Mutant(
        "a_kill_of_ours_is_an_oom",
        "supervisor/ends.py",
        "        we_killed=we_killed,",
        "        we_killed=False,",
        ("tests/unit/supervisor/test_ends.py",),
    ),
    Mutant(
        "what_runs_without_a_shim_is_given_up",
        "supervisor/adopt.py",
        '            if shim is None and not found.silent and not (run / "exit").exists():',
        "            if shim is None and found.silent:",
        ("tests/e2e/test_shim_loss.py::test_shims_and_daemon_die_together",),
    ),
    Mutant(
        "an_end_meanwhile_is_not_read",
        "supervisor/adopt.py",
        '            begun = (run / "exit").exists() or (run / "sock").exists()',
        "            begun = False",
        ("tests/e2e/test_spine.py::test_an_end_while_no_daemon_watched_is_judged_by_its_real_code",),
    ),
)
