#!/bin/sh
# Makes the environment .venv beside the scripts and installs a lock file into it.
#
#   requirements/install.sh cpu.lock
#
# An environment that was moved or copied here, that a first try left unfinished, or whose Python has no TensorFlow, is
# made again; PYTHON names the Python to make it with.
set -eu
unset CDPATH PIP_USER PIP_TARGET PIP_PREFIX  # The last three install elsewhere.
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fits() {
    .venv/bin/python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null &&
        grep -qF "$(cd .venv && pwd -P)/bin/python" .venv/bin/pip 2>/dev/null
}

show() {
    printf '\n$'
    printf ' %s' "$@"
    printf '\n'
    "$@"
}

fail() {
    echo "error: $*" >&2
    exit 1
}

probe=$(mktemp -d ./.probe.XXXXXX 2>/dev/null) || fail "cannot write to $PWD; copy the folder to where you may, and start there"
rmdir "$probe"
if ! fits; then
    command -v "$python" >/dev/null || fail "there is no $python; install Python 3.10 to 3.13, or name one: PYTHON=…"
    rm -rf .venv
    show "$python" -m venv .venv || fail "$python made no environment; its message above says why"
    fits || fail "$python is $(.venv/bin/python -V 2>/dev/null || echo no Python); TensorFlow needs Python 3.10 to 3.13: PYTHON=python3.13 …"
fi
show .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement "requirements/$1"
