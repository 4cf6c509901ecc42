#!/bin/sh
# The C programs under AddressSanitizer and UBSan, and tests that run them in that build.
#   scripts/sanitize.sh          shim, launcher and wharf-oci in tests/kernel, a slice of the conformance suite (CI)
#   scripts/sanitize.sh all      every test that runs a C program of ours on this host
#   scripts/sanitize.sh ARG...   pytest's own arguments
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

case "${1-}" in
'') set -- tests/unit/runtime/test_wire.py tests/kernel tests/conformance/test_mounts.py tests/conformance/test_hooks.py \
	-k 'shim or wire or launch or ocicli or hostile_proc or hostile_table or conformance' ;;
all) set -- tests/unit/runtime tests/kernel tests/conformance tests/fuzz tests/e2e ;;
esac

# The shim of tests/kernel, of a daemon, and the launcher of wharf-oci.
code=0
WHARFINGER_SHIM="$build/wharf-shim" WHARFINGER_SHIM_PATH="$build/wharf-shim" WHARFINGER_LAUNCH="$build/wharf-launch" \
	python -m pytest -q -p no:cacheprovider -m 'not vm' "$@" || code=$?
for report in "$reports"/*; do
	# without a /proc, which a test takes away, it warns that it cannot find its stack
	! grep -qs -e 'ERROR: ' -e 'runtime error' "$report" || { cat "$report"; code=1; }
done
exit "$code"
