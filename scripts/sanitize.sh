#!/bin/sh
# The C programs under AddressSanitizer and UBSan, and the tests that use them with that build.
# A report of any process fails the run, also when no test noticed.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export PATH
build="$PWD/build/asan"  # the tests know by this word that the shim is dynamic, and large
reports="$build/reports"
rm -rf "$reports"
mkdir -p "$reports"

# The shim gets an empty environment and no stderr, so the sanitizers' options are linked in, before its own.
cat >"$build/options.c" <<END
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);
const char *__asan_default_options(void)
{
	return "abort_on_error=1:detect_leaks=0:log_path=$reports/asan";
}
const char *__ubsan_default_options(void)
{
	return "halt_on_error=1:abort_on_error=1:print_stacktrace=1:log_path=$reports/ubsan";
}
END
cc -c -o "$build/options.o" "$build/options.c"
scripts/quiet.sh cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DWHARF_SANITIZE=ON \
	-DCMAKE_EXE_LINKER_FLAGS="$build/options.o -Wl,-z,muldefs"
scripts/quiet.sh cmake --build "$build"

code=0
WHARFINGER_SHIM="$build/wharf-shim" python -m pytest -q -p no:cacheprovider tests/unit/runtime tests/kernel \
	-k 'shim or wire' -m 'not vm' || code=$?
for report in "$reports"/*; do
	[ ! -e "$report" ] || { cat "$report"; code=1; }
done
exit "$code"
