#!/bin/sh
# Unit tests and exams on the oldest and the newest supported CPython of this machine.  The one in .venv is left out:
# `make test` has run everything there.  Each gets a .venv-<version>, installed again when what it is made from changes.
set -eu
cd "$(dirname "$0")/.."

supported="3.11 3.12 3.13 3.14"
tests="tests/unit tests/contracts"

# A shim of pyenv is on the PATH even where its version is not active, so a candidate must really run.
works() { # PYTHON VERSION
    "$1" -c 'import sys, ensurepip, venv
sys.exit(sys.implementation.name != "cpython" or "%d.%d" % sys.version_info[:2] != sys.argv[1])' "$2" >/dev/null 2>&1
}

find_python() { # VERSION
    for python in "$(command -v "python$1" || true)" \
        "/usr/local/bin/python$1" "/usr/bin/python$1" \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/"$1"*/bin/"python$1"; do
        if [ -x "$python" ] && works "$python" "$1"; then
            printf '%s\n' "$python"
            return
        fi
    done
}

install() { # VERSION PYTHON
    stamp=".venv-$1/.stamp"
    wanted=$(cat pyproject.toml hatch_build.py src/redis_consumer/processing/kernels/compiled.pyx | cksum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && works ".venv-$1/bin/python" "$1"; then
        return
    fi
    echo "other-pythons: installing into .venv-$1"
    rm -f "$stamp"
    works ".venv-$1/bin/python" "$1" || "$2" -m venv --clear ".venv-$1"
    ".venv-$1/bin/python" -m pip install --quiet --disable-pip-version-check "pip>=25.1"
    ".venv-$1/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[all]" --group test
    printf '%s\n' "$wanted" >"$stamp"
}

own=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none)
oldest="" newest=""
for version in $supported; do
    [ -n "$(find_python "$version")" ] || continue
    oldest=${oldest:-$version}
    newest=$version
done

ran=""
for version in $oldest $newest; do
    if [ "$version" = "$own" ] || [ "$version" = "$ran" ]; then continue; fi
    install "$version" "$(find_python "$version")"
    echo "other-pythons: $tests on Python $version"
    # shellcheck disable=SC2086 # two folders
    ".venv-$version/bin/python" -m pytest $tests -q -n 2
    ran=$version
done
[ -n "$ran" ] || echo "other-pythons: skipped, this machine has no other of Python $supported than $own"
