"""The tutorial's second half as a cluster runs it: the image is built, and the pods run in order through podman.

The manifests run as they are but for names (so that nothing of the developer's own is touched), small pictures and
the host's network, which has the picture to classify. What podman ignores is tested in test_manifests.py.
"""

from ast import literal_eval
from collections.abc import Callable, Iterator
import functools
import http.server
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from typing import Any
import urllib.parse
import urllib.request

from conftest import IMAGE_SIZE, MODEL_NAME
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BASE_IMAGE = "localhost/test-met-art-base:bookworm"
IMAGE = "localhost/test-met-art:1.0.0"
PROBE = "test-met-art-probe"
CLAIM = "test-met-art-logs"
CLAIMS = {CLAIM, "test-met-art-shared-logs"}
MAX_IMAGE_BYTES = 2.2e9
STEPS = 10
SMALL = {"model_name": MODEL_NAME, "batch_size": 4}
TRAINING = SMALL | {"train_image_size": IMAGE_SIZE}  # Two cores train it in seconds.
ADDRESS = r"http://[\w.]+:\d+"

missing = [program for program in ("podman", "runc", "mmdebstrap") if shutil.which(program) is None]
pytestmark = [
    pytest.mark.skipif(
        bool(missing), reason=f"no {', '.join(missing)} on this machine; .ci/install-packages installs them"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="mmdebstrap and podman's host network need root"),
    pytest.mark.timeout(1800),  # The first build installs TensorFlow.
]


@functools.cache
def podman_environment() -> dict[str, str]:
    """Returns the environment of podman; limits and runtime that also work inside a container."""
    settings = Path(os.environ.get("TMPDIR", "/tmp")) / "test-met-art-containers.conf"
    settings.write_text(
        '[containers]\ndefault_ulimits = ["nofile=16384:16384", "nproc=8192:8192"]\n[engine]\nruntime = "runc"\n'
    )
    return os.environ | {"CONTAINERS_CONF": str(settings)}


def podman(*arguments: str | Path, may_fail: bool = False) -> str:
    """Runs podman and returns its stdout."""
    process = subprocess.run(["podman", *arguments], env=podman_environment(), capture_output=True, text=True)
    output = process.stdout + process.stderr
    assert may_fail or process.returncode == 0, f"podman {arguments}:\n{output[-5000:]}"
    return process.stdout


def run_or_skip(*command: str | Path) -> None:
    """Runs a command that fails only where the machine is to blame: no containers allowed, no way to Debian.

    In continuous integration, which was set up for these tests, that is a failure.
    """
    process = subprocess.run(
        command, env=podman_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if process.returncode != 0:
        words = f"`{' '.join(map(str, command))}` fails here: {process.stdout.strip()[-500:]}"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)


def pip_mounts(folder: Path) -> list[str]:
    """Returns the podman options that let pip in a build find packages where pip on this machine does."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, stdout=subprocess.PIPE, text=True
    )
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for section, key, value in re.findall(r"^([\w:]+)\.([\w-]+)=(.+)$", listing.stdout, re.MULTILINE):
        sections.setdefault(section, {})[key.lstrip(".")] = literal_eval(value)
    settings = sections["global"] | sections["install"] | sections[":env:"]
    configuration = folder / "pip.conf"
    configuration.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    paths = {configuration: "/etc/pip.conf"}
    for word in " ".join(settings.values()).split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            # The packages of an index lie beside its pages.
            path = path.parent if word.startswith("file://") else path
            paths[path] = str(path)
    return [option for source, target in paths.items() for option in ("--volume", f"{source}:{target}:ro")]


def read_pod(file: str) -> Any:
    """Returns the pod of a manifest, which is the last in it."""
    return list(yaml.safe_load_all((ROOT / file).read_text(encoding="utf-8")))[-1]


def build(context: Path) -> str:
    """Builds the image; returns what podman says of its steps."""
    return podman(
        "build", "--network=host", "--build-arg", f"BASE_IMAGE={BASE_IMAGE}", *pip_mounts(context.parent),
        "--tag", IMAGE, context,
    )  # fmt: skip


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder to build from: the repo's files, and data/ as convert.py leaves it."""
    folder = tmp_path_factory.mktemp("build") / "context"
    (folder / "data").mkdir(parents=True)
    for pattern in ("Dockerfile", ".dockerignore", "requirements/*.lock", "*.py", "metart/**/*.py"):
        for file in ROOT.glob(pattern):
            copy = folder / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
    (folder / "metart/common/__pycache__").mkdir()  # As a clone has it in which scripts ran.
    (folder / "metart/common/__pycache__/files.pyc").touch()
    with tarfile.open(ROOT / "sample-dataset.tar.gz") as archive:
        archive.extractall(folder / "data", filter="data")
    subprocess.run([sys.executable, ROOT / "convert.py", f"--dataset_dir={folder / 'data'}"], check=True)
    return folder


@pytest.fixture(scope="module")
def base_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian with Python, made on this machine and proved to start."""
    if BASE_IMAGE not in podman("images", "--format", "{{.Repository}}:{{.Tag}}", may_fail=True).split():
        archive = tmp_path_factory.mktemp("base") / "base.tar"
        packages = "python3-minimal,python3-pip,python3-venv,ca-certificates"
        run_or_skip("mmdebstrap", "--variant=apt", f"--include={packages}", "bookworm", archive)
        run_or_skip("podman", "import", archive, BASE_IMAGE)
        archive.unlink()
    run_or_skip("podman", "run", "--rm", "--network=host", BASE_IMAGE, "true")
    # Pods need more of a machine than containers do, such as catatonit and its control groups.
    manifest = tmp_path_factory.mktemp("probe") / "probe.yaml"
    pod = read_pod("access-model-logs.yaml") | {"metadata": {"name": PROBE}}
    (container,) = pod["spec"]["containers"]
    container |= {"image": BASE_IMAGE, "command": ["/bin/true"], "volumeMounts": []}
    pod["spec"]["volumes"] = []
    manifest.write_text(yaml.safe_dump(pod))
    try:
        run_or_skip("podman", "kube", "play", "--network=host", "--replace", manifest)
        run_or_skip("podman", "wait", f"{PROBE}-{container['name']}")
    finally:
        podman("pod", "rm", "--force", "--ignore", "--time=1", PROBE, may_fail=True)
    return BASE_IMAGE


@pytest.fixture(scope="module")
def image(base_image: str, context: Path) -> str:
    build(context)
    return IMAGE


def test_image_is_small(image: str, record_property: Callable[[str, object], None]) -> None:
    size = int(podman("image", "inspect", "--format", "{{.Size}}", image))
    record_property("size of the image", f"{size / 1e9:.2f} GB, of which in MB:")
    script = "du -sm /usr /opt/venv/lib/python3*/site-packages/* | sort -rn | head -12"
    for part in podman("run", "--rm", "--network=host", image, "sh", "-c", script).splitlines():
        megabytes, path = part.split()
        record_property(f"  {path}", megabytes)
    assert size < MAX_IMAGE_BYTES


def test_image_holds_scripts_and_records_only(image: str, context: Path) -> None:
    listing = podman("run", "--rm", "--network=host", image, "find", "/model", "/data", "-type", "f").split()
    records = [f"/data/{file.name}" for file in context.glob("data/*.tfrecord")]
    expected = {f"/model/{file.relative_to(context)}" for file in context.rglob("*.py")} | {
        *records,
        "/data/labels.txt",
        "/data/splits.json",
    }
    assert len(records) == 10
    assert set(listing) == expected


def test_an_edited_script_is_in_the_image_without_another_installation(
    image: str, context: Path, record_property: Callable[[str, object], None]
) -> None:
    edit = "# edited\n"
    with open(context / "classify.py", "a") as script:
        script.write(edit)
    start = time.monotonic()
    steps = build(context)
    record_property("seconds to rebuild the image after editing a script", f"{time.monotonic() - start:.1f}")
    assert re.search(r"STEP .*pip install .*\n--> Using cache ", steps), steps
    assert podman("run", "--rm", "--network=host", image, "tail", "-n1", "/model/classify.py") == edit


def test_any_user_may_run_the_image(image: str) -> None:
    """As OpenShift does: with a number that the image does not know, without a home."""
    flags = " ".join(f"--{name}={value}" for name, value in (TRAINING | {"max_number_of_steps": 1}).items())
    train = f"python train_image_classifier.py --train_dir=/tmp/logs --dataset_dir=/data {flags}"
    evaluate = "python eval_image_classifier.py --checkpoint_path=/tmp/logs --eval_dir=/tmp/eval --dataset_dir=/data"
    printed = podman(
        "run", "--rm", "--network=host", "--user=1000680000:0", "--passwd=false", "--read-only", "--tmpfs=/tmp",
        image, "sh", "-c", f"{{ {train} && {evaluate}; }} 2>&1",
    )  # fmt: skip
    assert "; reports in /tmp/eval" in printed.splitlines()[-1]
    assert "Matplotlib" not in printed  # Which looks for a folder of its own in the home.


class Pod:
    """The pod of a manifest, or one of a Job, under a name of its own, with some flags set otherwise."""

    def __init__(self, file: str, folder: Path, **flags: object):
        text = (ROOT / file).read_text(encoding="utf-8")
        manifests = list(yaml.safe_load_all(re.sub(r"met-art|access-model|(?<=name: )tmp", r"test-\g<0>", text)))
        pod = manifests[-1]
        if pod["kind"] == "Job":  # Podman knows Pods only. This one is worker 0: no JOB_COMPLETION_INDEX.
            template = pod["spec"]["template"]
            pod = template | {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"] | pod["metadata"]}
        # `kubectl apply` leaves a claim as it is; podman would fail on it.
        there = podman("volume", "ls", "--quiet").split()
        claims = [manifest for manifest in manifests if manifest["metadata"]["name"] in CLAIMS.difference(there)]
        (container,) = pod["spec"]["containers"]
        kept = [argument for argument in container.get("args", []) if argument[2:].split("=")[0] not in flags]
        container.pop("ports", None)  # Nothing to map on the host's network.
        container["args"] = kept + [f"--{name}={value}" for name, value in flags.items()]
        self.name = pod["metadata"]["name"]
        self.container = f"{self.name}-{container['name']}"
        self.grace_seconds = pod["spec"].get("terminationGracePeriodSeconds", 30)
        path = folder / file
        path.write_text(yaml.safe_dump_all([*claims, pod]))
        podman("kube", "play", "--network=host", "--replace", path)

    def log(self) -> str:
        """Returns what the container has written, stdout first."""
        command = ["podman", "logs", self.container]
        process = subprocess.run(command, env=podman_environment(), capture_output=True, text=True, check=True)
        return process.stdout + process.stderr

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 600) -> None:
        """Waits while the container runs until `condition` holds."""
        end = time.monotonic() + seconds
        while not condition():
            running = self.inspect("State.Running") == "true"
            assert running and time.monotonic() < end, f"no {what} from {self.name}:\n{self.log()}"
            time.sleep(0.3)

    def stop(self) -> None:
        """Ends the container as `kubectl delete` does: SIGTERM, and SIGKILL after the grace period."""
        podman("stop", f"--time={self.grace_seconds}", self.container)

    def status(self) -> int:
        """Returns the exit status once the container has ended."""
        return int(podman("wait", self.container))

    def inspect(self, field: str) -> str:
        return podman("inspect", "--format", f"{{{{.{field}}}}}", self.container).strip()


@pytest.fixture(scope="module")
def claim(image: str) -> Iterator[str]:
    """Starts with an empty claim and leaves neither claim nor pods behind."""

    def clean() -> None:
        pods = podman("pod", "ls", "--format", "{{.Name}}").split()
        for pod in pods:
            if re.match(r".*test-(met-art|access-model)", pod):
                # Killed first: a container that ends while `rm` gives up on it stays, with an error.
                podman("pod", "kill", pod, may_fail=True)
                podman("pod", "rm", "--force", pod)
        podman("volume", "rm", "--force", *CLAIMS, "test-tmp", may_fail=True)

    clean()
    yield CLAIM
    clean()


@pytest.fixture(scope="module")
def trained(claim: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pod, int]:
    """The train pod after it was stopped in the middle and started again; the step at which it was stopped."""
    folder = tmp_path_factory.mktemp("pods")
    flags = TRAINING | {"max_number_of_steps": STEPS, "log_every_n_steps": 1}
    pod = Pod("train-model.yaml", folder, **flags)
    settings = Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", claim).strip()) / "flags.json"
    pod.wait_until(settings.exists, "step")  # Written right before the first step.
    pod.stop()
    assert pod.status() == 75, pod.log()
    saved = re.search(r"interrupted: saved /logs/model\.ckpt-(\d+)", pod.log())
    assert saved, pod.log()
    return Pod("train-model.yaml", folder, **flags), int(saved[1])


def test_training_goes_on_from_its_checkpoint(trained: tuple[Pod, int]) -> None:
    pod, stopped_at = trained
    assert pod.status() == 0, pod.log()
    assert 0 < stopped_at < STEPS
    assert f"from step {stopped_at} to {STEPS}" in pod.log()
    assert re.search(rf"^trained to step {STEPS}: .*checkpoint /logs/model\.ckpt-{STEPS}$", pod.log(), re.MULTILINE)


def test_one_pod_of_the_distributed_job_trains_alone(claim: str, tmp_path: Path) -> None:
    pod = Pod("train-distributed.yaml", tmp_path, **TRAINING, worker_replicas=1, max_number_of_steps=2)
    assert pod.status() == 0, pod.log()
    assert re.search(r"^trained to step 2: .*checkpoint /logs/model\.ckpt-2$", pod.log(), re.MULTILINE), pod.log()


def test_a_volume_of_root_ends_the_pod_with_advice(claim: str, image: str, tmp_path: Path) -> None:
    """As a hostPath or a folder of an NFS server that nobody gave to user 1000."""
    volume = "test-met-art-shared-logs"
    podman("run", "--rm", "--network=host", f"--volume={volume}:/logs", image, "true")  # Gives it to the user at first.
    folder = podman("volume", "inspect", "--format", "{{.Mountpoint}}", volume).strip()
    os.chown(folder, 0, 0)
    pod = Pod("train-distributed.yaml", tmp_path, **TRAINING, worker_replicas=1, max_number_of_steps=4)
    assert pod.status() == 1, pod.log()
    last = pod.log().splitlines()[-1]
    assert last.startswith("error: /logs belongs to user 0:0 (mode 755) and user 1000:1000 may not write there; "), last
    os.chown(folder, 1000, 1000)


def test_pods_are_not_root_and_cannot_write_beside_their_volumes(trained: tuple[Pod, int]) -> None:
    pod, _ = trained
    assert pod.inspect("Config.User") == "1000:1000"
    assert pod.inspect("HostConfig.ReadonlyRootfs") == "true"
    assert pod.inspect("EffectiveCaps") in ("[]", "<nil>")


@pytest.fixture(scope="module")
def evaluated(trained: tuple[Pod, int], tmp_path_factory: pytest.TempPathFactory) -> Pod:
    """The eval pod after the train pod, both ended."""
    assert trained[0].status() == 0, trained[0].log()
    pod = Pod("eval-model.yaml", tmp_path_factory.mktemp("pods"), **SMALL)
    assert pod.status() == 0, pod.log()
    return pod


def test_eval_pod_reports_accuracy(evaluated: Pod, context: Path) -> None:
    pictures = sum(json.loads((context / "data/splits.json").read_text())["counts"]["validation"].values())
    result = rf"^/logs/model\.ckpt-{STEPS}: top-1 [01]\.\d+ on {pictures} validation pictures"
    assert re.search(result, evaluated.log(), re.MULTILINE), evaluated.log()


@pytest.fixture
def picture_url(context: Path) -> Iterator[str]:
    """The address of a picture on a server of this machine."""
    picture = min((context / "data/met_art").rglob("*.jpg"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(picture.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/{picture.name}"
        server.shutdown()


def test_infer_pod_names_a_label(evaluated: Pod, context: Path, picture_url: str, tmp_path: Path) -> None:
    flags = {"model_name": SMALL["model_name"], "image_url": picture_url, "allow_private_hosts": True}
    pod = Pod("infer-model.yaml", tmp_path, **flags)
    assert pod.status() == 0, pod.log()
    labels = {line.partition(":")[2] for line in (context / "data/labels.txt").read_text().splitlines()}
    answers = re.findall(r"^ +([\d.]+)% +(.+)$", pod.log(), re.MULTILINE)
    assert picture_url in pod.log()
    assert {label for _, label in answers} == labels
    assert sum(float(probability) for probability, _ in answers) == pytest.approx(100, abs=0.5)


def scalars(address: str) -> dict[tuple[str, str], list[int]]:
    """Returns, from TensorBoard's HTTP API, the steps of each scalar by (run, tag)."""

    def get(path: str) -> Any:
        with urllib.request.urlopen(f"{address}/data/plugin/scalars/{path}", timeout=30) as answer:
            return json.load(answer)

    end = time.monotonic() + 120
    while not {".", "eval"} <= get("tags").keys():  # It answers before it has read everything.
        assert time.monotonic() < end, get("tags")
        time.sleep(1)
    return {
        (run, tag): [step for _, step, _ in get(f"scalars?{urllib.parse.urlencode({'run': run, 'tag': tag})}")]
        for run, tags in get("tags").items()
        for tag in tags
    }


def test_logs_are_copied_and_read_by_tensorboard(evaluated: Pod, tmp_path: Path) -> None:
    access = Pod("access-model-logs.yaml", tmp_path)
    archive = tmp_path / "logs.tar"
    with open(archive, "wb") as file:  # As `kubectl cp` does it.
        command = ["podman", "exec", access.container, "tar", "cf", "-", "-C", "/", "logs"]
        subprocess.run(command, env=podman_environment(), stdout=file, check=True)
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    assert (tmp_path / f"logs/model.ckpt-{STEPS}.index").is_file()

    pod = Pod("tensorboard.yaml", tmp_path, port=0)
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={tmp_path / 'logs'}", "--port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as tensorboard:
        try:
            assert tensorboard.stderr
            local = next(found[0] for line in tensorboard.stderr if (found := re.search(ADDRESS, line)))
            of_copy = scalars(local)
            pod.wait_until(lambda: "http://" in pod.log(), "address")
            of_pod = scalars(re.findall(ADDRESS, pod.log())[0])
        finally:
            tensorboard.terminate()
    assert of_copy == of_pod
    assert of_copy[".", "loss"][-1] == STEPS
    assert ("eval", "eval/top_1") in of_copy
