#!/bin/sh
# Lint, types, imports and tests. Makes .venv where it is missing.
#
#   ./test.sh                  the tests of a few minutes
#   ./test.sh --slow           all of them
#   ./test.sh tests/test_x.py  anything else goes to pytest
set -eu
unset CDPATH
cd "$(dirname "$0")"

sh requirements/install.sh dev.lock

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports --no-cache --no-logo

selection="not slow"
if [ "${1:-}" = --slow ]; then
    selection="slow or not slow"
    shift
fi
# One process more than cores, as some tests wait. A file at a time: what its tests share is made once.
processes=$(($(getconf _NPROCESSORS_ONLN) + 1))
exec .venv/bin/pytest -n "$processes" --dist loadfile --no-loadscope-reorder -m "$selection" "$@"
