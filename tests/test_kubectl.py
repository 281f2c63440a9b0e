"""The commands that the manifests print, given to kubectl itself and a double of a cluster (apiserver.py)."""

from collections.abc import Callable, Iterator
import os
from pathlib import Path
import re
import shutil
import subprocess

from apiserver import Cluster
import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(ROOT.glob("*.yaml"))
NAMESPACE = "art"
Shell = Callable[[str], "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Iterator[Shell]:
    """Runs a command line in the repository; its kubectl talks to the double, in the namespace NAMESPACE."""
    with cluster.open(tmp_path, NAMESPACE) as kubeconfig:

        def run(command: str) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                ["sh", "-c", command],
                cwd=ROOT,
                env=os.environ | {"KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=120,
            )

        yield run


def printed(path: Path, beginning: str) -> list[str]:
    """Returns the commands in the first lines of a manifest that begin so, without the words behind them."""
    lines = re.findall(rf"^#   ({beginning}.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [line.split("   ")[0] for line in lines]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_manifest_may_be_applied_twice_and_made_anew_after_its_delete(
    path: Path, cluster: Cluster, shell: Shell
) -> None:
    applies = [f"{command} --validate=false" for command in printed(path, "kubectl apply -f")]
    first = [shell(command) for command in applies]
    assert applies and [result.returncode for result in first] == [0] * len(applies), first
    made = dict(cluster.objects)
    assert {namespace for namespace, resource, _ in made if resource != "persistentvolumes"} <= {NAMESPACE}

    for (_, resource, _), each in made.items():  # What a cluster adds.
        each["status"] = {"phase": "Bound"}
        if resource == "persistentvolumes":
            each["spec"]["claimRef"] = {"kind": "PersistentVolumeClaim", "name": "met-art-logs", "uid": "1"}
        if resource == "persistentvolumeclaims":
            each["spec"] |= {"volumeName": "pvc-1", "storageClassName": "standard", "volumeMode": "Filesystem"}
        if resource == "jobs":
            each["spec"] |= {"suspend": False, "selector": {"matchLabels": {"controller-uid": "1"}}}
            each["spec"]["template"]["metadata"]["labels"]["controller-uid"] = "1"
    before = len(cluster.requests)
    for result in map(shell, applies):
        assert result.returncode == 0 and re.fullmatch(r"(.+ unchanged\n)+", result.stdout), result
    assert {method for method, _ in cluster.requests[before:]} == {"GET"}

    (delete,) = printed(path, "kubectl delete")
    assert shell(delete).returncode == 0
    left = set(cluster.objects)
    assert {resource for _, resource, _ in left} <= {"persistentvolumeclaims"}  # They keep what was made.
    again = shell(f"kubectl create -f {path.name} --validate=false")
    assert set(cluster.objects) >= set(made)
    assert again.stderr.count("already exists") == len(left), again.stderr


def test_create_makes_what_apply_makes(cluster: Cluster, shell: Shell) -> None:
    for path in FILES:
        assert shell(f"kubectl create -f {path.name} --validate=false").returncode == 0
    created = set(cluster.objects)
    cluster.objects.clear()
    for path in FILES:
        assert shell(f"kubectl apply -f {path.name} --validate=false").returncode == 0
    assert set(cluster.objects) == created and len(created) > 12


def add_worker_pod(cluster: Cluster, index: int, start: int, log: list[str]) -> None:
    """Adds a pod of the Job of train-distributed.yaml that wrote a line a minute from minute `start` on."""
    name = f"train-met-art-workers-{index}-{start:05}"
    cluster.objects[NAMESPACE, "pods", name] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"job-name": "train-met-art-workers"}},
        "spec": {"containers": [{"name": "train", "image": "met-art:1.0.0"}]},
        "status": {"phase": "Running"},
    }
    stamped = [f"2026-01-01T00:{minute:02}:00.5Z {line}\n" for minute, line in enumerate(log, start)]
    cluster.logs[name] = "".join(stamped)


def test_one_command_shows_the_log_of_the_whole_run_of_64_workers(cluster: Cluster, shell: Shell) -> None:
    for start in (20, 0, 10):  # Three times each; kubectl goes by the names of the pods.
        for index in range(64):
            add_worker_pod(cluster, index, start, [f"worker {index} trains from {start}", f"worker {index} ends"])
    (follow, whole) = printed(ROOT / "train-distributed.yaml", "kubectl logs")
    result = shell(whole)
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) == 64 * 3 * 2, result.stderr
    minutes = [line.split()[1] for line in lines]
    assert minutes == sorted(minutes)
    assert "[pod/train-met-art-workers-63-00010/train] 2026-01-01T00:10:00.5Z worker 63 trains from 10" in lines
    guide = (ROOT / "doc" / "kubernetes.md").read_text(encoding="utf-8")
    assert f"\n{whole}\n" in guide
    assert f"\n{follow}\n" in guide


def test_64_workers_can_be_followed(cluster: Cluster, shell: Shell) -> None:
    for index in range(64):
        add_worker_pod(cluster, index, 0, [f"worker {index} trains"])
    (follow, _) = printed(ROOT / "train-distributed.yaml", "kubectl logs")
    result = shell(follow)
    assert result.returncode == 0, result.stderr
    shown = {line.split(maxsplit=2)[2] for line in result.stdout.splitlines()}
    assert shown == {f"worker {index} trains" for index in range(64)}
