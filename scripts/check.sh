#!/bin/sh
# Everything that reads the code without running it. Runs all, then fails if one failed.
set -u
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
failed=

step() {
	name=$1
	shift
	log=$(mktemp)
	if "$@" >"$log" 2>&1; then printf 'check: %-22s ok\n' "$name"; else
		printf 'check: %-22s FAILED: %s\n' "$name" "$*"
		cat "$log"
		failed="$failed $name"
	fi
	rm -f "$log"
}

c_files() { find runtime/native tests/fuzz -name '*.[ch]' 2>/dev/null | LC_ALL=C sort; }
c_format() { c_files | xargs clang-format --dry-run -Werror; }
analyzer() {
	cmake -S . -B build/analyze -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_COMPILER=gcc \
		-DCMAKE_C_FLAGS='-fanalyzer -Werror' && cmake --build build/analyze --clean-first
}
tidy() {
	cmake -S . -B build/tidy -G Ninja -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DCMAKE_C_COMPILER=clang &&
		find runtime/native -name '*.c' | xargs clang-tidy -p build/tidy --quiet --warnings-as-errors='*' \
			--checks='-*,bugprone-*,clang-analyzer-*,cert-err34-c,misc-static-assert,-bugprone-easily-swappable-parameters,-bugprone-reserved-identifier,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling,-bugprone-narrowing-conversions'
}
present() { for p in "$@"; do [ ! -e "$p" ] || echo "$p"; done; }

step 'ruff' ruff check --no-fix .
step 'ruff format' ruff format --check --diff .
# shellcheck disable=SC2046
step 'mypy' mypy $(present supervisor runtime monitor config scripts tests grafana examples)
step 'import rules' lint-imports --no-cache --no-logo
step 'repository' python -m scripts.check_repo
if [ -n "$(c_files)" ]; then
	step 'clang-format' c_format
	step 'gcc -fanalyzer' analyzer
	step 'clang-tidy' tidy
fi
[ -z "$failed" ] || { printf 'check: failed:%s\n' "$failed"; exit 1; }
