#!/bin/sh
# Runs a command, shows what it printed only when it failed.
log=$(mktemp)
"$@" >"$log" 2>&1 </dev/null
code=$?
[ "$code" = 0 ] || cat "$log"
rm -f "$log"
exit "$code"
