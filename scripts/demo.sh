#!/bin/sh
# The demonstration, where it can show limits: on this host if its cgroup v2 has them, else in the VM.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
name=examples.demo
[ "${1:-}" != live ] || name=examples.demo_live

mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
if [ "$(id -u)" = 0 ] && [ -n "$mount" ] && grep -qw memory "$mount/cgroup.controllers"; then
	exec python -m "$name"
fi
exec tests/vm/run -- "$PWD/.venv/bin/python" -m "$name"
