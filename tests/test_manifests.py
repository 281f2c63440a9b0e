"""The manifests: valid for Kubernetes, one with the scripts and with each other, allowed by the restricted profile."""

import argparse
from collections.abc import Callable
import copy
import importlib
from pathlib import Path
import re
import socket
import subprocess
import sys
from typing import Any

from kubernetes_validate.utils import ValidationError, all_versions, latest_version, validate
import pytest
import yaml

import metart
from metart.common.flags import STATUS_ERROR, STATUS_USAGE

Manifest = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(ROOT.glob("*.yaml"))
TEXTS = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "doc").glob("*.md"))]
PREPARE_DATA = ROOT / "prepare-data.yaml"
OLDEST_KUBERNETES = (1, 28)
# Each is listed twice, as its schemas are: open ones and strict ones.
VERSIONS = [v for v in dict.fromkeys(all_versions()) if tuple(map(int, v.split("."))) >= OLDEST_KUBERNETES]
SERVING_IMAGE = "tensorflow/serving:2.19.1"  # The one image that is not ours.
POD_NAMES = {
    "train-model.yaml": "train-met-art-model",
    "eval-model.yaml": "eval-met-art-model",
    "infer-model.yaml": "infer-met-art-model",
    "access-model-logs.yaml": "access-model-logs",
    "tensorboard.yaml": "tensorboard-met-art-model",
}
# The edits of the guides, each one command that GNU's and BSD's sed both understand.
EDITS = {
    "registry": "sed -i.bak -e 's#image: met-art:#image: registry.example.com/me/met-art:#' "
    "-e 's/# imagePullSecrets/imagePullSecrets/' *.yaml",
    "gpu": "sed -i.bak -e 's/# tolerations/tolerations/' -e 's|# nvidia.com/gpu|nvidia.com/gpu|' "
    "-e '/--clone_on_cpu/d' "
    "train-model.yaml train-distributed.yaml eval-model.yaml infer-model.yaml",
    "data volume": "sed -i.bak -e 's/# - {name: data,/- {name: data,/' "
    "-e 's/--max_number_of_steps=100/--num_epochs=10/' -e 's#=/logs\\(/eval\\)*$#=/logs/large\\1#' "
    "train-model.yaml train-distributed.yaml eval-model.yaml infer-model.yaml access-model-logs.yaml",
    "users of the cluster's choice": "sed -i.bak -e '/runAsUser:/d' -e '/runAsGroup:/d' -e '/fsGroup:/d' *.yaml",
    "logs of several workers": "sed -i.bak 's/claimName: met-art-logs/claimName: met-art-shared-logs/' "
    "eval-model.yaml infer-model.yaml access-model-logs.yaml tensorboard.yaml serve-model.yaml",
}


def read(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def pod_spec(manifest: Manifest) -> Manifest | None:
    """Returns the pod that a Pod or a Job describes, None for other kinds."""
    if manifest["kind"] == "Job":
        return manifest["spec"]["template"]["spec"]
    return manifest["spec"] if manifest["kind"] == "Pod" else None


def containers(spec: Manifest) -> list[Manifest]:
    return spec.get("initContainers", []) + spec["containers"]


MANIFESTS = [(path, manifest) for path in FILES for manifest in read(path)]
PODS = [(path, manifest, spec) for path, manifest in MANIFESTS if (spec := pod_spec(manifest))]
POD_IDS = [f"{path.name}-{manifest['metadata']['name']}" for path, manifest, _ in PODS]
each_pod = pytest.mark.parametrize(("path", "manifest", "spec"), PODS, ids=POD_IDS)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_manifest(version: str) -> None:
    for _, manifest in MANIFESTS:
        validate(manifest, version, strict=True)


def test_versions_reach_from_the_oldest_on() -> None:
    assert VERSIONS[0].startswith("1.28.")
    assert VERSIONS[-1] == latest_version()


def test_the_schema_check_refuses_an_unknown_field() -> None:
    manifest = copy.deepcopy(read(ROOT / "train-model.yaml")[1])
    manifest["spec"]["containers"][0]["volumemounts"] = []
    with pytest.raises(ValidationError, match="volumemounts"):
        validate(manifest, VERSIONS[-1], strict=True)


def expanded(argument: str, container: Manifest) -> str:
    """Returns an argument with $(NAME) replaced as Kubernetes does; "0" for what only the cluster knows."""
    values = {"JOB_COMPLETION_INDEX": "0"} | {e["name"]: e.get("value", "0") for e in container.get("env", [])}
    return re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], argument)


@each_pod
def test_the_script_parses_its_arguments(path: Path, manifest: Manifest, spec: Manifest) -> None:
    for container in containers(spec):
        arguments = [expanded(argument, container) for argument in container.get("args", [])]
        match container["command"]:
            case ["python", script]:
                assert (ROOT / Path(script).name).is_file() and Path(script).parent == Path("/model")
                parser: argparse.ArgumentParser = importlib.import_module(Path(script).stem).build_parser()
                parser.parse_args(arguments)
            case ["tensorboard"]:
                from tensorboard.program import TensorBoard

                TensorBoard().configure(["tensorboard", *arguments])
            case ["tensorflow_model_server"]:
                assert {argument.partition("=")[0] for argument in arguments} == {
                    "--model_name",
                    "--model_base_path",
                    "--rest_api_port",
                    "--tensorflow_session_parallelism",
                }
            case command:
                assert command == ["sleep", "infinity"] and not arguments


def test_a_misspelt_argument_is_refused() -> None:
    parser = importlib.import_module("train_image_classifier").build_parser()
    with pytest.raises(SystemExit):
        parser.parse_args([*read(ROOT / "train-model.yaml")[1]["spec"]["containers"][0]["args"], "--batchsize=1"])


@pytest.mark.parametrize(("file", "name"), POD_NAMES.items())
def test_pods_have_the_names_of_the_tutorial(file: str, name: str) -> None:
    pods = [manifest for manifest in read(ROOT / file) if manifest["kind"] == "Pod"]
    assert [pod["metadata"]["name"] for pod in pods] == [name]
    assert pods[0]["spec"]["restartPolicy"] == "Never"


def test_one_image_and_one_version_everywhere() -> None:
    images = {container["image"] for _, _, spec in PODS for container in containers(spec)}
    assert images == {f"met-art:{metart.__version__}", SERVING_IMAGE}
    for _, manifest in MANIFESTS:
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == manifest["metadata"]["name"]
        assert labels["app.kubernetes.io/part-of"] == "met-art"
        assert labels["app.kubernetes.io/version"] == metart.__version__
        assert labels["app.kubernetes.io/component"]


def test_names_are_distinct() -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for _, manifest in MANIFESTS]
    assert len(names) == len(set(names))


def test_the_image_of_tensorflow_serving_goes_to_processors_that_it_is_for() -> None:
    for _, manifest, spec in PODS:
        images = {container["image"] for container in containers(spec)}
        expected = {"kubernetes.io/arch": "amd64"} if SERVING_IMAGE in images else None
        assert spec.get("nodeSelector") == expected, manifest["metadata"]["name"]


def test_services_select_pods() -> None:
    templates = [manifest["spec"].get("template", manifest) for _, manifest, _ in PODS]
    for _, manifest in MANIFESTS:
        if manifest["kind"] == "Service":
            wanted = manifest["spec"]["selector"].items()
            chosen = [pod for pod in templates if wanted <= pod["metadata"]["labels"].items()]
            assert len(chosen) == 1, manifest["metadata"]["name"]
            assert chosen[0]["spec"]["subdomain"] == manifest["metadata"]["name"]


def assert_mounts_agree(manifests: list[Manifest]) -> None:
    """Every mount has its volume and the reverse, every claim exists, and what is written lies on a volume."""
    claims = {manifest["metadata"]["name"] for _, manifest in MANIFESTS if manifest["kind"] == "PersistentVolumeClaim"}
    for spec in filter(None, map(pod_spec, manifests)):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = [mount for container in containers(spec) for mount in container["volumeMounts"]]
        assert {mount["name"] for mount in mounts} == set(volumes)
        used = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert used and used <= claims
        assert volumes["tmp"]["emptyDir"] is not None
        writable = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")}
        for container in containers(spec):
            for argument in container.get("args", []):
                flag, _, value = argument.partition("=")
                if flag in ("--train_dir", "--eval_dir", "--export_dir"):
                    assert any(Path(value).is_relative_to(folder) for folder in writable - {"/tmp"}), argument


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_volumes_mounts_and_claims_agree(path: Path) -> None:
    assert_mounts_agree(read(path))


def test_pods_prefer_the_node_that_has_their_disk() -> None:
    """The scheduler does not look where a ReadWriteOnce claim is mounted; on another node a pod would wait for it."""
    on_one_node = {
        manifest["metadata"]["name"]
        for _, manifest in MANIFESTS
        if manifest["kind"] == "PersistentVolumeClaim" and manifest["spec"]["accessModes"] == ["ReadWriteOnce"]
    }
    together = [
        (manifest, spec)
        for _, manifest, spec in PODS
        if any(v.get("persistentVolumeClaim", {}).get("claimName") in on_one_node for v in spec["volumes"])
    ]
    assert len(together) == 6
    for _, spec in together:
        (preference,) = spec["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        term = preference["podAffinityTerm"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        for manifest, _ in together:
            assert term["labelSelector"]["matchLabels"].items() <= manifest["metadata"]["labels"].items()


def test_no_manifest_names_a_namespace() -> None:
    """So that `-n art` is all it takes."""
    for path, manifest in MANIFESTS:
        assert "namespace" not in str(manifest), path.name


def test_the_local_volume_fits_the_claims_of_the_logs() -> None:
    (volume,) = read(ROOT / "local-volume.yaml")
    for file in ("train-model.yaml", "train-distributed.yaml"):
        claim = read(ROOT / file)[0]
        assert volume["spec"]["capacity"] == claim["spec"]["resources"]["requests"]
        assert set(claim["spec"]["accessModes"]) <= set(volume["spec"]["accessModes"])
        assert "storageClassName" not in volume["spec"] and "storageClassName" not in claim["spec"]


def test_applying_the_jobs_again_leaves_them_as_they_are() -> None:
    """A field that has to be changed while a Job runs (suspend) would be set back by `kubectl apply`."""
    for path, manifest in MANIFESTS:
        if manifest["kind"] == "Job":
            assert "suspend" not in manifest["spec"], path.name


def test_each_part_of_prepare_data_is_chosen_by_its_component() -> None:
    components = [manifest["metadata"]["labels"]["app.kubernetes.io/component"] for _, manifest in MANIFESTS]
    parts = [manifest["metadata"]["labels"]["app.kubernetes.io/component"] for manifest in read(PREPARE_DATA)]
    assert parts == ["storage", "download", "convert"]
    guide = (ROOT / "doc" / "kubernetes.md").read_text(encoding="utf-8")
    for part in parts:
        command = f"kubectl apply -f prepare-data.yaml --selector=app.kubernetes.io/component={part}\n"
        assert command in PREPARE_DATA.read_text(encoding="utf-8") and command in guide
    assert components.count("download") == components.count("convert") == 1


def test_jobs_try_again_only_what_may_succeed() -> None:
    for path, manifest in MANIFESTS:
        if manifest["kind"] == "Job":
            rules = {rule["action"]: rule for rule in manifest["spec"]["podFailurePolicy"]["rules"]}
            assert rules["FailJob"]["onExitCodes"]["values"] == [STATUS_ERROR, STATUS_USAGE], path.name


def quantity(text: str) -> float:
    """Returns what Kubernetes makes of "500m" (processors) or "2500Mi" (bytes)."""
    number, unit = re.fullmatch(r"(\d+)(m|Mi|Gi|)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"m": 0.001, "Mi": 2**20, "Gi": 2**30, "": 1}[unit]


def requested(spec: Manifest, resource: str) -> float:
    """Returns what a node needs to have free for a pod: its containers, or its first one."""
    first, main = (
        [quantity(container["resources"]["requests"][resource]) for container in spec.get(kind, [])]
        for kind in ("initContainers", "containers")
    )
    return max([sum(main), *first])


BESIDE = [(path, spec) for path, _, spec in PODS if path.name in ("access-model-logs.yaml", "tensorboard.yaml")]
# Two processors less the 0.75 that the system's pods request; 8 GB less what the system keeps and they request.
MINIKUBE = {"cpu": 1.25, "memory": 7.4 * 2**30}


@pytest.mark.parametrize("resource", MINIKUBE)
@each_pod
def test_every_manifest_fits_the_readmes_minikube(
    path: Path, manifest: Manifest, spec: Manifest, resource: str
) -> None:
    """Together with the pods that look at its results; a Job with all its pods."""
    beside = [other for _, other in BESIDE if other is not spec]
    copies = manifest["spec"].get("parallelism", 1) if manifest["kind"] == "Job" else 1
    total = copies * requested(spec, resource) + sum(requested(other, resource) for other in beside)
    assert total <= MINIKUBE[resource]
    if manifest["kind"] == "Pod" and path.name == "train-model.yaml":  # Evaluated meanwhile with --watch.
        (evaluation,) = (other for file, _, other in PODS if file.name == "eval-model.yaml")
        assert total + requested(evaluation, resource) <= MINIKUBE[resource]


def test_processes_follow_the_limit_of_the_processor() -> None:
    """Both scripts decode as many pictures at once as they have cores; the largest takes 1.4 GB."""
    for manifest in read(PREPARE_DATA)[1:]:
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        assert quantity(limits["memory"]) >= quantity(limits["cpu"]) * 1.421e9  # doc/reliability.md
        assert not any("num_workers" in argument for argument in container["args"])


def test_shards_agree_with_completions() -> None:
    jobs = [manifest for manifest in read(ROOT / "prepare-data.yaml") if manifest["kind"] == "Job"]
    download = next(job["spec"] for job in jobs if job["metadata"]["name"] == "download-met-art")
    assert download["completionMode"] == "Indexed"
    assert f"--num_shards={download['completions']}" in download["template"]["spec"]["containers"][0]["args"]
    assert download["parallelism"] <= download["completions"]


def restricted_violations(spec: Manifest) -> list[str]:
    """Returns what Pod Security's restricted profile, and this project beyond it, forbid in a pod.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted; beyond it: a root file system
    that cannot be written, no token of the cluster, fsGroup for the volumes, requests and a limit on memory.
    """
    found = [f"{field}: true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    allowed_volumes = {
        "configMap",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found += [f"volume {v['name']}" for v in spec.get("volumes", []) if not (v.keys() - {"name"}) <= allowed_volumes]
    pod = spec.get("securityContext", {})
    found += ["fsGroup"] if not pod.get("fsGroup") else []
    found += ["automountServiceAccountToken"] if spec.get("automountServiceAccountToken") is not False else []
    for container in containers(spec):
        own = container.get("securityContext", {})
        effective = pod | own
        resources = container.get("resources", {})
        checks = {
            "runAsNonRoot": effective.get("runAsNonRoot") is True,
            "runAsUser": effective.get("runAsUser", 0) > 0,
            "seccompProfile": effective.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "privileged": not own.get("privileged"),
            "procMount": own.get("procMount", "Default") == "Default",
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities drop": "ALL" in own.get("capabilities", {}).get("drop", []),
            "capabilities add": set(own.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "requests": {"cpu", "memory"} <= resources.get("requests", {}).keys(),
            "memory limit": "memory" in resources.get("limits", {}),
        }
        found += [name for name, passed in checks.items() if not passed]
    return found


@each_pod
def test_pods_keep_the_restricted_profile(path: Path, manifest: Manifest, spec: Manifest) -> None:
    assert restricted_violations(spec) == []


def test_every_pod_that_listens_has_a_network_policy() -> None:
    """Nobody reaches TensorBoard, workers reach workers, the pods of the namespace reach TensorFlow Serving."""
    allowed = {}
    for _, manifest in MANIFESTS:
        if manifest["kind"] == "NetworkPolicy":
            assert manifest["spec"]["policyTypes"] == ["Ingress"]
            (label,) = manifest["spec"]["podSelector"]["matchLabels"].items()
            allowed[label] = manifest["spec"]["ingress"]
    listening = {
        ("app.kubernetes.io/name", manifest["metadata"]["name"])
        for _, manifest, spec in PODS
        for container in containers(spec)
        if "ports" in container or any("port" in argument for argument in container.get("args", []))
    }
    assert set(allowed) == listening and len(listening) == 3
    for (_, name), rules in allowed.items():
        expected: list[Manifest] = []
        if name == "train-met-art-workers":
            sender = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": name}}}
            expected = [{"from": [sender], "ports": [{"port": 2222}]}]
        if name == "serve-met-art-model":
            expected = [{"from": [{"podSelector": {}}], "ports": [{"port": 8501}]}]
        assert rules == expected, name


def test_tensorboards_probe_says_in_a_word_what_it_found() -> None:
    (pod,) = (spec for path, _, spec in PODS if path.name == "tensorboard.yaml")
    (container,) = pod["containers"]
    assert "--host=localhost" in container["args"] and "--port=6006" in container["args"]
    _, *arguments = container["readinessProbe"]["exec"]["command"]
    with socket.create_server(("localhost", 0)) as listener:
        port = str(listener.getsockname()[1])
        probe = [sys.executable, *(argument.replace("6006", port) for argument in arguments)]
        assert subprocess.run(probe, capture_output=True, text=True).returncode == 0
    ended = subprocess.run(probe, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "not listening yet\n")


@each_pod
def test_pods_hear_sigterm_from_the_first_moment(path: Path, manifest: Manifest, spec: Manifest) -> None:
    assert spec["shareProcessNamespace"] is True  # The kernel keeps from process 1 what it has no handler for.


@pytest.mark.parametrize(
    ("violation", "spoil"),
    [
        ("hostNetwork: true", lambda spec, _: spec.update(hostNetwork=True)),
        ("volume root", lambda spec, _: spec["volumes"].append({"name": "root", "hostPath": {"path": "/"}})),
        ("fsGroup", lambda spec, _: spec["securityContext"].pop("fsGroup")),
        ("automountServiceAccountToken", lambda spec, _: spec.pop("automountServiceAccountToken")),
        ("runAsNonRoot", lambda spec, _: spec["securityContext"].pop("runAsNonRoot")),
        ("runAsUser", lambda _, container: container["securityContext"].update(runAsUser=0)),
        ("seccompProfile", lambda spec, _: spec["securityContext"]["seccompProfile"].update(type="Unconfined")),
        ("privileged", lambda _, container: container["securityContext"].update(privileged=True)),
        ("procMount", lambda _, container: container["securityContext"].update(procMount="Unmasked")),
        ("allowPrivilegeEscalation", lambda _, container: container["securityContext"].pop("allowPrivilegeEscalation")),
        ("capabilities drop", lambda _, container: container["securityContext"].pop("capabilities")),
        ("capabilities add", lambda _, c: c["securityContext"]["capabilities"].update(add=["SYS_ADMIN"])),
        ("hostPort", lambda _, container: container.update(ports=[{"containerPort": 1, "hostPort": 1}])),
        ("readOnlyRootFilesystem", lambda _, container: container["securityContext"].pop("readOnlyRootFilesystem")),
        ("requests", lambda _, container: container["resources"].pop("requests")),
        ("memory limit", lambda _, container: container["resources"]["limits"].pop("memory")),
    ],
)
def test_the_profile_check_finds(violation: str, spoil: Callable[[Manifest, Manifest], object]) -> None:
    spec = copy.deepcopy(read(ROOT / "train-model.yaml")[1]["spec"])
    spoil(spec, spec["containers"][0])
    assert restricted_violations(spec) == [violation]


def edited(edit: str, folder: Path) -> list[tuple[str, Manifest]]:
    """Returns what one of EDITS changed, (file name, manifest) each, after the checks of mounts and schema."""
    for path in FILES:
        (folder / path.name).write_bytes(path.read_bytes())
    for _ in range(2):  # The second time nothing is left to change.
        subprocess.run(["sh", "-c", EDITS[edit]], cwd=folder, check=True)
    changed = []
    for path in FILES:
        manifests = read(folder / path.name)
        assert_mounts_agree(manifests)
        changed += [(path.name, after) for before, after in zip(read(path), manifests, strict=True) if before != after]
    for _, manifest in changed:
        validate(manifest, VERSIONS[-1], strict=True)
    return changed


@pytest.mark.parametrize("edit", EDITS)
def test_the_guides_offer_the_edit(edit: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in TEXTS]
    assert any(f"\n{EDITS[edit]}\n" in re.sub(r" *\\\n *", " ", text) for text in texts)


@pytest.mark.parametrize("path", [*FILES, *TEXTS], ids=lambda path: path.name)
def test_nobody_waits_30_seconds_for_an_image_of_two_gigabytes(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.match("#? *kubectl wait ", line):
            assert re.search(r" --timeout=(10m|24h) ", line), line


def test_what_sed_leaves_beside_an_edited_file_is_ignored_by_git() -> None:
    assert "*.bak" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert all("sed -i.bak" in edit for edit in EDITS.values())


def test_one_edit_names_registry_and_secret(tmp_path: Path) -> None:
    changed = edited("registry", tmp_path)
    assert len(changed) == len(PODS)
    for _, manifest in changed:
        spec = pod_spec(manifest)
        assert spec and spec["imagePullSecrets"] == [{"name": "met-art-registry"}]
        ours = [c["image"] for c in containers(spec) if c["image"] != SERVING_IMAGE]
        assert ours and all(image.startswith("registry.example.com/me/met-art:") for image in ours)


def test_one_edit_asks_for_a_gpu(tmp_path: Path) -> None:
    changed = edited("gpu", tmp_path)
    files = {"train-model.yaml", "train-distributed.yaml", "eval-model.yaml", "infer-model.yaml"}
    assert {name for name, _ in changed} == files
    for _, manifest in changed:
        spec = pod_spec(manifest)
        assert spec
        (container,) = spec["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]  # As such nodes are tainted.
        assert not any("clone_on_cpu" in argument for argument in container["args"])


def test_one_edit_takes_the_records_from_a_claim(tmp_path: Path) -> None:
    changed = edited("data volume", tmp_path)
    assert len(changed) == 5
    for name, manifest in changed:
        spec = pod_spec(manifest)
        assert spec
        (container,) = spec["containers"]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounts["/data"].get("readOnly", False) == (name != "access-model-logs.yaml")
        folders = {argument.split("=")[1] for argument in container.get("args", []) if "=/logs" in argument}
        assert folders <= {"/logs/large", "/logs/large/eval"}  # Beside a run on the sample.
        assert folders or name == "access-model-logs.yaml"
        if name.startswith("train-"):  # Photographs need more than the sample's hundred steps.
            assert "--num_epochs=10" in container["args"]


def test_one_edit_takes_the_logs_of_several_workers(tmp_path: Path) -> None:
    changed = edited("logs of several workers", tmp_path)
    assert len(changed) == 5
    for _, manifest in changed:
        claims = [v["persistentVolumeClaim"] for v in manifest["spec"]["volumes"] if "persistentVolumeClaim" in v]
        assert claims == [{"claimName": "met-art-shared-logs"}]


def test_one_edit_leaves_the_numbers_of_users_to_the_cluster(tmp_path: Path) -> None:
    changed = edited("users of the cluster's choice", tmp_path)
    assert len(changed) == len(PODS)
    for _, manifest in changed:
        spec = pod_spec(manifest)
        assert spec and not {"runAsUser", "runAsGroup", "fsGroup"} & spec["securityContext"].keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
