"""cores.py: what a container may use of the processor, from control groups of both versions."""

import os
from pathlib import Path
import subprocess
import sys

from control_groups import control_group, python_within
from processes import REPO
import pytest

from metart.common.cores import available_cores

OWN_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
POD = "kubepods/burstable/pod1/container1"
# As docker and containerd show them inside a container without and with a name space of its own for control groups.
VERSION_1 = f"5:memory:/{POD}\n4:cpu,cpuacct:/{POD}\n1:name=systemd:/{POD}\n"
VERSION_2 = "0::/\n"


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)


def cores(folder: Path, own_cgroups: str, files: dict[str, str]) -> int:
    """Returns what `available_cores` makes of control groups with some files."""
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    own = folder / "own"
    own.write_text(own_cgroups)
    return available_cores(folder / "cgroup", own)


def version_1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": str(period)}


@pytest.mark.parametrize(
    ("content", "expected"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("25000 50000", 1), ("9900000 100000", 64)],
)
def test_a_limit_of_version_2(tmp_path: Path, content: str, expected: int) -> None:
    assert cores(tmp_path, VERSION_2, {"cpu.max": content}) == expected


def test_a_limit_of_version_1(tmp_path: Path) -> None:
    assert cores(tmp_path, VERSION_1, version_1("cpu,cpuacct", 250_000)) == 3


def test_a_limit_of_version_1_beside_version_2(tmp_path: Path) -> None:
    assert cores(tmp_path, VERSION_1 + VERSION_2, version_1("cpu", 400_000) | {"unified/cgroup.procs": "1"}) == 4


@pytest.mark.parametrize("files", [{}, {"cpu.max": "max 100000"}, version_1("cpu,cpuacct", -1), {"cpu.max": "?"}])
def test_without_a_limit_the_affinity_counts(tmp_path: Path, files: dict[str, str]) -> None:
    assert cores(tmp_path, VERSION_1 + VERSION_2, files) == 64


def test_the_tightest_of_all_groups_above_counts(tmp_path: Path) -> None:
    files = {f"{POD}/cpu.max": "max 100000", "kubepods/burstable/cpu.max": "300000 100000", "cpu.max": "max 100000"}
    assert cores(tmp_path, f"0::/{POD}\n", files | {"kubepods/cpu.max": "500000 100000"}) == 3
    assert cores(tmp_path, VERSION_1, version_1(f"cpu/{POD}", 800_000) | version_1("cpu/kubepods", 600_000)) == 6


def test_a_group_beside_the_own_does_not_count(tmp_path: Path) -> None:
    assert cores(tmp_path, f"0::/{POD}\n", {"kubepods/besteffort/cpu.max": "100000 100000"}) == 64


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert available_cores(tmp_path, tmp_path / "none") == 64


@pytest.mark.skipif(OWN_CORES < 2, reason="a limit of one core shows only where there are more")
def test_a_process_in_a_control_group_takes_its_limit() -> None:
    program = "import convert; print(convert.build_parser().parse_args(['--dataset_dir=data']).num_workers)"
    with control_group({"cpu.cfs_quota_us": 100_000}, {"cpu.max": "100000 100000"}) as group:
        commands = [python_within(group, "-c", program), [sys.executable, "-c", program]]
        found = [subprocess.run(command, cwd=REPO, capture_output=True, check=True).stdout for command in commands]
    assert found == [b"1\n", f"{OWN_CORES}\n".encode()]
