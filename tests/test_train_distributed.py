"""train-distributed.yaml: the workers it starts find each other, and the Job starts again those that have to be.

What holds for every manifest is tested in test_manifests.py.
"""

from pathlib import Path
import re
from typing import Any

import pytest
import yaml

from metart.common.flags import STATUS_ERROR, STATUS_RETRY, STATUS_USAGE
from metart.training import peers
from metart.training.cluster import Cluster
from metart.training.cluster import from_flags as cluster_from_flags
import train_image_classifier

Manifest = dict[str, Any]

FILE = Path(__file__).resolve().parents[1] / "train-distributed.yaml"
MANIFESTS: dict[str, Manifest] = {
    manifest["kind"]: manifest for manifest in yaml.safe_load_all(FILE.read_text("utf-8"))
}
JOB: Manifest = MANIFESTS["Job"]["spec"]
POD: Manifest = JOB["template"]
(CONTAINER,) = POD["spec"]["containers"]
NAME: str = MANIFESTS["Job"]["metadata"]["name"]


def cluster_of_pod(index: int, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Returns what the script in a pod of the Job makes of its arguments."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))  # As Kubernetes does for an Indexed Job.
    flags = train_image_classifier.build_parser().parse_args(CONTAINER["args"])
    return cluster_from_flags(flags.worker_replicas, flags.task, flags.worker_address)


def test_every_pod_is_one_of_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert JOB["completionMode"] == "Indexed"
    assert JOB["parallelism"] == JOB["completions"] >= 2
    for index in range(JOB["completions"]):
        cluster = cluster_of_pod(index, monkeypatch)
        assert (cluster.index, cluster.size) == (index, JOB["completions"])


def test_the_number_of_workers_stands_in_two_marked_lines() -> None:
    marked = [line.split("#")[0].strip() for line in FILE.read_text("utf-8").splitlines() if re.search(r"# N\b", line)]
    number = JOB["completions"]
    assert marked == [f"completions: &workers {number}", f"- --worker_replicas={number}"]


def test_addresses_are_the_names_that_the_service_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    service = MANIFESTS["Service"]
    assert POD["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= POD["metadata"]["labels"].items()
    ports = {service["spec"]["ports"][0]["port"], CONTAINER["ports"][0]["containerPort"]}
    # https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode: the host name is <job>-<index>.
    names = [f"{NAME}-{index}.{service['metadata']['name']}" for index in range(JOB["completions"])]
    addresses = [peers.split_address(address) for address in cluster_of_pod(0, monkeypatch).addresses]
    assert [host for host, _ in addresses] == names
    assert {port for _, port in addresses} == ports


def test_only_the_workers_reach_the_workers() -> None:
    policy = MANIFESTS["NetworkPolicy"]["spec"]
    mine = policy["podSelector"]["matchLabels"]
    assert mine.items() <= POD["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [
        {
            "from": [{"podSelector": {"matchLabels": mine}}],
            "ports": [{"port": CONTAINER["ports"][0]["containerPort"]}],
        }
    ]


def test_the_job_starts_again_what_was_interrupted_and_gives_up_on_errors() -> None:
    rules = {rule["action"]: rule for rule in JOB["podFailurePolicy"]["rules"]}
    assert rules["Ignore"]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules["FailJob"]["onExitCodes"] == {"operator": "In", "values": [STATUS_ERROR, STATUS_USAGE]}
    assert STATUS_RETRY not in rules["FailJob"]["onExitCodes"]["values"]
    # Counted for all pods together, the wait would double with each of them: ten minutes after one incident of eight.
    assert "backoffLimit" not in JOB and JOB["backoffLimitPerIndex"] >= 5
    assert JOB["maxFailedIndexes"] == 0
    assert JOB["podReplacementPolicy"] == "Failed"
    assert JOB["ttlSecondsAfterFinished"] > 0
    # A Job doubles its wait before it starts a pod again up to ten minutes; the others wait for that pod.
    assert peers.WAIT_SECONDS > 600


def test_workers_prefer_nodes_of_their_own() -> None:
    (preferred,) = POD["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    term = preferred["podAffinityTerm"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"].items() <= POD["metadata"]["labels"].items()


def test_all_see_the_checkpoints() -> None:
    (logs,) = (volume for volume in POD["spec"]["volumes"] if volume["name"] == "logs")
    claim = MANIFESTS["PersistentVolumeClaim"]
    assert logs["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
