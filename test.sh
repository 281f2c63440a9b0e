#!/bin/sh
# Lint, types and tests. Makes .venv where it is missing.
#
#   ./test.sh                  the tests of a few minutes
#   ./test.sh --slow           all of them
#   ./test.sh tests/test_x.py  anything else goes to pytest
set -eu
cd "$(dirname "$0")"

[ -x .venv/bin/pip ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.lock

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports --no-cache --no-logo

selection="not slow"
if [ "${1:-}" = --slow ]; then
    selection="slow or not slow"
    shift
fi
# One process a core, a file at a time: the fixtures of a file, such as a trained checkpoint, are made once.
exec .venv/bin/pytest -n auto --dist loadfile -m "$selection" "$@"
