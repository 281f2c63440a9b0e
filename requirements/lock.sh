#!/bin/sh
# Makes the lock files again from the .txt files beside them: all packages, theirs too, with the checksum of every file
# that may be installed, for all supported versions of Python on all systems. Needs uv (pip install uv).
#
#   requirements/lock.sh              versions that still fit stay
#   requirements/lock.sh --upgrade    the newest of what the .txt files leave open
set -eu
CDPATH='' cd -- "$(dirname -- "$0")"

for name in cpu gpu dev; do
    uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate "$@" \
        "$name.txt" --output-file "$name.lock" >/dev/null
    { printf '# Made by requirements/lock.sh from %s.txt.\n' "$name" && cat "$name.lock"; } >"$name.partial"
    mv "$name.partial" "$name.lock"
done
