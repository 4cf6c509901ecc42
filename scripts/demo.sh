#!/bin/sh
# The demonstration, where it can show limits: on this host if its cgroup v2 has them, else in the VM.
# With "live" it leaves the example running; in the VM that ends with the shell that it gives.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export PATH
live=
[ "${1:-}" != live ] || live=--live

mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
if [ "$(id -u)" = 0 ] && [ -n "$mount" ] && grep -qw memory "$mount/cgroup.controllers"; then
	exec python -m examples.demo $live
fi
echo "demo: this host's cgroup v2 has no memory controller for us: in the VM"
[ -n "$live" ] || exec tests/vm/run -- python -m examples.demo
if [ ! -t 0 ] || [ ! -t 1 ]; then
	echo 'demo: in the VM it lives as long as a terminal, and there is none here' >&2
	exit 1
fi
exec tests/vm/run --tty -- sh -c 'python -m examples.demo --live && echo "(exit ends the VM)" && exec bash --norc'
