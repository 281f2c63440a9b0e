"""How many processor cores this process may use: those its container was given, not those of the machine."""

from collections.abc import Iterator
import math
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")  # Lines like "0::/path" (version 2) and "4:cpu,cpuacct:/path" (version 1).


def available_cores(root: Path = CGROUP_ROOT, own_cgroups: Path = OWN_CGROUPS) -> int:
    """Returns the number of cores that this process may use, at least 1.

    That is the smallest of: the cores of its affinity (taskset, cpusets), and what each control group above it may use
    of processor time, rounded up. The latter is what `limits: {cpu: …}` of Kubernetes and `docker run --cpus` set.

    Args:
        root: Where the control groups are mounted.
        own_cgroups: The file that names those of this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [limit for folder in _folders(root, own_cgroups) if (limit := _limit(folder)) is not None]
    return max(1, min([cores, *map(math.ceil, limits)]))


def _folders(root: Path, own_cgroups: Path) -> Iterator[Path]:
    """Yields the folders of the control groups of this process and of all above them, if they exist.

    In a container the path often is the one on the host, while its own group is mounted at the root: the path itself
    does not exist then, and the root is the last of those above it.
    """
    try:
        lines = own_cgroups.read_text(encoding="utf-8").splitlines()
    except OSError:  # Not Linux.
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / controllers, root / "cpu"]
        else:
            continue
        for mount in mounts:
            group = mount / path.strip("/")
            yield from (folder for folder in [group, *group.parents] if folder.is_relative_to(mount))


def _limit(folder: Path) -> float | None:
    """Returns how many cores' time a control group may use; None without a limit, or if there is no such group."""
    try:
        if (folder / "cpu.max").exists():  # Version 2: "150000 100000" or "max 100000".
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:  # Version 1; a quota of -1 is none.
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None
