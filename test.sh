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
# One process a core, a file at a time: the fixtures of a file, such as a trained checkpoint, are made once.
exec .venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder -m "$selection" "$@"
