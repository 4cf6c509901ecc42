#!/bin/sh
# The C programs under AddressSanitizer and UBSan, and the tests that use them with that build.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export PATH
build=build/sanitize
scripts/quiet.sh cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Debug -DWHARF_SANITIZE=ON
scripts/quiet.sh cmake --build $build
WHARFINGER_SHIM_PATH="$PWD/$build/wharf-shim"
ASAN_OPTIONS=abort_on_error=1:detect_leaks=1:log_path="$PWD/$build/report"
UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1:log_path="$PWD/$build/report"
export WHARFINGER_SHIM_PATH ASAN_OPTIONS UBSAN_OPTIONS
rm -f $build/report*
code=0
python -m pytest -q -p no:cacheprovider tests/unit/runtime/test_wire.py tests/kernel -k 'shim or wire' -m 'not vm' || code=$?
for report in $build/report*; do
	[ ! -e "$report" ] || { cat "$report"; code=1; }
done
exit $code
