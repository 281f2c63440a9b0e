"""Control groups of this machine: what a cluster limits the processes of a pod with."""

from collections.abc import Iterator, Mapping
import contextlib
import os
from pathlib import Path
import sys

import pytest

from metart.common.cores import CGROUP_ROOT


@contextlib.contextmanager
def control_group(version_1: Mapping[str, object], version_2: Mapping[str, object]) -> Iterator[Path]:
    """Yields a new group with some limits; skips the test, and says why, where none can be made.

    Args:
        version_1: Values of files such as "memory.limit_in_bytes", all of one controller.
        version_2: The same for version 2.
    """
    mount = CGROUP_ROOT / next(iter(version_1)).partition(".")[0]
    files = version_1 if mount.is_dir() else version_2
    group = (mount if mount.is_dir() else CGROUP_ROOT) / f"test-met-art-{os.getpid()}"
    try:
        group.mkdir()
        try:
            for name, value in files.items():
                (group / name).write_text(str(value))
        except OSError:
            group.rmdir()
            raise
    except OSError as error:
        pytest.skip(f"no control group can be made and limited here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


def python_within(group: Path, *arguments: str | os.PathLike[str]) -> list[str]:
    """Returns the command that runs Python as the only process of a group."""
    shell = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group / "cgroup.procs")]
    return [*shell, sys.executable, *map(str, arguments)]
