#!/bin/sh
# Makes .venv with everything that `make check | test | build` need, and builds the project into it.
# Quick when nothing changed. Installs Debian packages only when root, with apt, and only what is missing.
# Settings: PYTHON (interpreter, 3.11 or later), SETUP_APT=no (never install packages).
set -eu
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf 'setup: %s\n' "$*"; }

# A line each: what proves that it is there, the Debian package, what for.
wants() {
	cat <<-'END'
	cc                       gcc                 must
	/usr/include/stdio.h     libc6-dev           must
	/usr/include/linux/fs.h  linux-libc-dev      must
	cmake                    cmake               must
	ninja                    ninja-build         must
	git                      git                 must
	libseccomp.so.2          libseccomp2         must
	clang-format             clang-format        check
	clang-tidy               clang-tidy          check
	clang                    clang               fuzz
	libFuzzer                libclang-rt-dev     fuzz
	/bin/busybox             busybox-static      test
	ip                       iproute2            test
	strace                   strace              test
	crun                     crun                test
	runc                     runc                test
	mkfs.ext4                e2fsprogs           test
	dmsetup                  dmsetup             test
	libgpgme.so.11           libgpgme11          test
	libsubid.so.4            libsubid4           test
	conmon                   conmon              test
	END
	[ "$(uname -m)" != x86_64 ] || printf '%s\n' 'linux.uml user-mode-linux test' 'runsc runsc test'
	/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || echo 'python-venv python3-venv must'
}

present() {
	case $1 in
	/*) [ -e "$1" ] ;;
	lib*.so.*) ldconfig -p 2>/dev/null | grep -q "$1" || /sbin/ldconfig -p | grep -q "$1" ;;
	libFuzzer) ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a >/dev/null 2>&1 ;;
	python-venv) pick_python >/dev/null 2>&1 ;;
	*) command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] ;;
	esac
}

missing() { wants | while read -r proof package _; do present "$proof" || echo "$package"; done; }

system_packages() {
	list=$(missing | tr '\n' ' ')
	[ -n "$list" ] || return 0
	if [ "${SETUP_APT:-yes}" = no ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		say "not installed here: $list(go on without)"
		return 0
	fi
	say "installing $list"
	quiet apt-get update
	# shellcheck disable=SC2086
	DEBIAN_FRONTEND=noninteractive quiet apt-get install -y --no-install-recommends $list
}

# Packages that would start a service: of those only programs, beside ours in .venv/bin.
fetch_programs() {
	[ "${SETUP_APT:-yes}" != no ] && command -v apt-get >/dev/null || return 0
	fetch prometheus promtool prometheus
	fetch containerd ctr containerd containerd-shim-runc-v2
	fetch podman podman
}

lacks() {
	for program; do
		command -v "$program" >/dev/null || [ -x ".venv/bin/$program" ] || return 0
	done
	return 1
}

fetch() { # PACKAGE PROGRAM...
	package=$1
	shift
	lacks "$@" || return 0
	[ "$(id -u)" != 0 ] || [ -e /var/lib/apt/lists/lock ] || quiet apt-get update
	dir=$(mktemp -d)
	if (cd "$dir" && apt-get download -q "$package" && dpkg-deb -x "$package"_*.deb .) >"$dir/log" 2>&1; then
		for program; do mv "$dir/usr/bin/$program" .venv/bin/; done
	else
		say "no $package: $(tail -n 1 "$dir/log")"
	fi
	rm -rf "$dir"
}

pick_python() {
	for p in ${PYTHON:-/usr/bin/python3 python3 python3.13 python3.12 python3.11}; do
		"$p" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
		"$p" -c 'import sys; print(sys.executable)'
		return 0
	done
	say 'no Python 3.11 or later with venv; set PYTHON' >&2
	return 1
}

# Prints a command's output only when it fails.
quiet() {
	log=$(mktemp)
	if "$@" >"$log" 2>&1; then rm -f "$log"; else
		code=$?
		cat "$log" >&2
		rm -f "$log"
		say "failed ($code): $*" >&2
		return "$code"
	fi
}

stamp_is() { [ "$(cat ".venv/.stamp-$1" 2>/dev/null)" = "$2" ]; }
hash_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }

python_packages() {
	python=$(pick_python)
	want="$python $(hash_of requirements-build.lock requirements-dev.lock)"
	! stamp_is deps "$want" || return 0
	say "virtual environment from $python"
	"$python" -m venv --clear .venv
	quiet .venv/bin/pip install --require-hashes --no-deps -r requirements-build.lock
	quiet .venv/bin/pip install --require-hashes --no-deps --no-build-isolation -r requirements-dev.lock
	quiet .venv/bin/pip check
	printf '%s\n' "$want" >.venv/.stamp-deps
}

project() {
	sources=$(find runtime/native -type f \( -name '*.[ch]' -o -name '*.in' -o -name '*.cmake' -o -name '*.txt' \) | LC_ALL=C sort)
	# shellcheck disable=SC2086
	want=$(hash_of pyproject.toml CMakeLists.txt README.md $sources)
	! stamp_is build "$want" || return 0
	say 'building the project'
	quiet .venv/bin/pip install --no-build-isolation --no-deps --no-index -e .
	printf '%s\n' "$want" >.venv/.stamp-build
}

mkdir -p build
exec 9>build/.setup-lock
! command -v flock >/dev/null || flock 9

system_packages
python_packages
fetch_programs
project
