"""Where other runtimes, as Debian 12 packages them (crun 1.8.1, runc 1.1.5), do otherwise on a whole cgroup v2.

An expected failure for that runtime alone, strict unless it is `UNSURE`: reason, then the cases.
"""

from __future__ import annotations

Reasons = dict[str, tuple[str, ...]]

_CRUN: Reasons = {
    "exec begins in / and not in the process's cwd; the specification says nothing of exec": (
        "test_exec_gets_what_the_config_says",
    ),
    "1.8.1 tells a startContainer hook / as the bundle": ("test_a_hook_gets_the_state_on_its_input[startContainer]",),
    "start does not tell what became of the hooks that it runs": (
        "test_hooks_run_in_the_order_of_the_lifecycle_and_of_their_list",
        "test_a_hook_that_fails_at_start_stops_the_container",
        "test_a_hook_that_cannot_be_is_an_error[relative-startContainer]",
        "test_a_hook_that_cannot_be_is_an_error[missing-startContainer]",
        "test_a_hook_that_cannot_be_is_an_error[timeout 0-startContainer]",
        "test_a_hook_that_cannot_be_is_an_error[timeout -1-startContainer]",
    ),
    "a poststart hook that fails is a warning, as the specification had it before 1.2": (
        "test_a_hook_that_fails_after_start_stops_the_container",
    ),
    "a timeout of 0 is taken as none, though it MUST be greater": (
        "test_a_hook_that_cannot_be_is_an_error[timeout 0-prestart]",
        "test_a_hook_that_cannot_be_is_an_error[timeout 0-createRuntime]",
    ),
    "any text is an id; this one's create does not come back": ("test_an_id_that_is_no_name_is_refused[a b]",),
    "kill takes an unknown signal for one": (
        "test_kill_with_what_is_no_signal_is_an_error[NOSUCH]",
        "test_kill_with_what_is_no_signal_is_an_error[1x]",
    ),
    "1.8.1 knows no ociVersion above 1.1": (
        "test_a_version_that_we_are_compatible_with_is_taken[1.2.1]",
        "test_a_version_that_we_are_compatible_with_is_taken[1.3.0]",
    ),
    "a create that fails leaves its cgroup": (
        "test_a_namespace_that_cannot_be_is_an_error[wrong type]",
        "test_a_namespace_that_cannot_be_is_an_error[missing]",
        "test_a_namespace_that_cannot_be_is_an_error[no namespace]",
        "test_a_namespace_that_cannot_be_is_an_error[unknown]",
        "test_a_namespace_that_cannot_be_is_an_error[relative]",
        "test_a_controller_that_is_not_there_is_an_error",
        "test_a_mount_that_cannot_be_is_an_error[idmap without a mapping]",
        "test_a_limit_that_cannot_be_is_refused[unknown]",
        "test_a_limit_that_cannot_be_is_refused[soft above hard]",
    ),
    "not checked, though the specification asks for an error or says REQUIRED": (
        "test_a_namespace_that_is_listed_twice_is_an_error",
        "test_a_device_that_cannot_be_is_an_error[type]",
        "test_a_device_that_cannot_be_is_an_error[another file there]",
        "test_a_filter_that_cannot_be_is_refused[no names]",
        "test_an_unknown_propagation_of_the_root_is_refused",
        "test_a_cwd_that_is_not_absolute_is_refused[tmp]",
        "test_a_limit_that_cannot_be_is_refused[twice]",
        "test_an_id_that_is_none_is_refused[0-uid]",
        "test_an_id_that_is_none_is_refused[0-gid]",
    ),
    "intelRdt is left out where resctrl is not mounted": ("test_rdt_without_its_file_system_is_an_error",),
    "silent and iversion go to a file system that does not take them by the old call": (
        "test_an_option_is_taken_and_sets_nothing_else[loud]",
        "test_an_option_is_taken_and_sets_nothing_else[silent]",
        "test_an_option_is_taken_and_sets_nothing_else[iversion]",
        "test_an_option_is_taken_and_sets_nothing_else[noiversion]",
    ),
    "of two options that contradict each other the later does not win": ("test_the_later_of_two_options_wins",),
    "the propagation that a mount asks for is not there at the end": (
        "test_the_propagation_of_a_mount[shared]",
        "test_the_propagation_of_a_mount[unbindable]",
        "test_the_propagation_of_a_mount[rshared]",
        "test_the_propagation_of_a_mount[runbindable]",
    ),
    "what a link in the root points to is not made when it is missing": (
        "test_a_destination_by_a_link_stays_in_the_root",
    ),
    "1.8.1 knows neither scheduler nor ioPriority": (
        "test_the_scheduler_is_what_is_configured[SCHED_OTHER-0]",
        "test_the_scheduler_is_what_is_configured[SCHED_BATCH-3]",
        "test_the_scheduler_is_what_is_configured[SCHED_IDLE-5]",
        "test_an_unknown_scheduler_is_refused",
        "test_the_io_priority_is_what_is_configured[IOPRIO_CLASS_BE-2]",
        "test_the_io_priority_is_what_is_configured[IOPRIO_CLASS_IDLE-3]",
        "test_an_unknown_io_priority_is_refused",
    ),
}

_RUNC: Reasons = {
    "poststart hooks run before the program and their failure ends the create": (
        "test_hooks_run_in_the_order_of_the_lifecycle_and_of_their_list",
        "test_a_hook_gets_the_state_on_its_input[poststart]",
        "test_a_hook_that_fails_after_start_stops_the_container",
    ),
    "start does not tell what became of startContainer hooks": (
        "test_a_hook_that_fails_at_start_stops_the_container",
        "test_a_hook_that_cannot_be_is_an_error[relative-startContainer]",
        "test_a_hook_that_cannot_be_is_an_error[missing-startContainer]",
        "test_a_hook_that_cannot_be_is_an_error[timeout 0-startContainer]",
        "test_a_hook_that_cannot_be_is_an_error[timeout -1-startContainer]",
    ),
    "after a poststop hook that fails the others are left out": (
        "test_a_hook_that_fails_after_the_end_is_only_a_warning",
    ),
    "the version is not looked at": (
        "test_a_version_that_is_none_is_refused[None]",
        "test_a_version_that_is_none_is_refused[2.0.0]",
        "test_a_version_that_is_none_is_refused[x]",
    ),
    "a create that fails leaves its cgroup": ("test_a_namespace_that_cannot_be_is_an_error[no namespace]",),
    "not checked, though the specification asks for an error or says REQUIRED": (
        "test_a_device_that_cannot_be_is_an_error[no path]",
        "test_a_device_that_cannot_be_is_an_error[another file there]",
        "test_a_filter_that_cannot_be_is_refused[no names]",
        "test_a_filter_that_cannot_be_is_refused[errno of allow]",
        "test_a_mount_that_cannot_be_is_an_error[idmap without a mapping]",
        "test_a_limit_that_cannot_be_is_refused[twice]",
    ),
    "an errno for an action without one makes a filter that its create does not get past": (
        "test_a_filter_that_cannot_be_is_refused[errno of kill]",
    ),
    "1.1.5 crashes when the filter stops a call that its own start-up makes": (
        "test_a_seccomp_action[errno]",
        "test_a_seccomp_action[errnoRet]",
        "test_a_seccomp_comparison[NE]",
        "test_a_seccomp_comparison[LT]",
        "test_a_seccomp_comparison[LE]",
        "test_a_seccomp_action_that_kills[SCMP_ACT_KILL_PROCESS]",
        "test_a_seccomp_action_that_kills[SCMP_ACT_TRAP]",
    ),
    "1.1.5 knows no personality": (
        "test_the_personality_is_what_is_configured",
        "test_an_unknown_personality_is_refused",
    ),
    "intelRdt is left out where resctrl is not mounted": ("test_rdt_without_its_file_system_is_an_error",),
    "1.1.5 knows no cpu.idle": ("test_a_resource_is_written_to_the_cgroup[cpu.idle=1]",),
    "`defaults` goes to the file system as its data": ("test_an_option_is_taken_and_sets_nothing_else[defaults]",),
    "the root that is pivoted to is private, whatever rootfsPropagation says": (
        "test_the_propagation_of_the_root[shared-shared]",
        "test_the_propagation_of_the_root[unbindable-unbindable]",
    ),
    "1.1.5 knows neither scheduler nor ioPriority": (
        "test_the_scheduler_is_what_is_configured[SCHED_OTHER-0]",
        "test_the_scheduler_is_what_is_configured[SCHED_BATCH-3]",
        "test_the_scheduler_is_what_is_configured[SCHED_IDLE-5]",
        "test_an_unknown_scheduler_is_refused",
        "test_the_io_priority_is_what_is_configured[IOPRIO_CLASS_BE-2]",
        "test_the_io_priority_is_what_is_configured[IOPRIO_CLASS_IDLE-3]",
        "test_an_unknown_io_priority_is_refused",
    ),
    "1.1.5 knows no domainname": (
        "test_the_domainname_is_what_is_configured",
        "test_a_name_without_a_namespace_of_its_own_is_refused[domainname]",
    ),
}


def _by_case(reasons: Reasons) -> dict[str, str]:
    return {case: reason for reason, cases in reasons.items() for case in cases}


# start returns before its hooks have run: whether they are seen in time is luck
UNSURE = {"crun": {"test_hooks_run_in_the_order_of_the_lifecycle_and_of_their_list"}}
QUIRKS: dict[str, dict[str, str]] = {"crun": _by_case(_CRUN), "runc": _by_case(_RUNC)}
