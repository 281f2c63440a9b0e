"""cluster.sh: what it makes of a cluster's answers. Whether a cluster gives them, only one can tell.

The kubectl here answers as a cluster would that does everything right, or wrong in one point.
"""

from collections.abc import Callable
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "cluster.sh"

# {wrong}: the answer that is another, as (pattern of the command line, what is printed, status).
KUBECTL = """#!{python}
import re, sys, time
from pathlib import Path
words = sys.argv[1:]
line = " ".join(words)
journal = Path({journal!r})
before = journal.read_text() if journal.exists() else ""
with journal.open("a") as file:
    file.write(line + chr(10))

def answer(text="", status=0):
    print(text)
    sys.exit(status)

wrong = {wrong!r}
if wrong and re.search(wrong[0], line):
    answer(*wrong[1:])
applied = re.search(r"apply -f (.*)", line)
if "--dry-run" in line:
    answer("pod/x created (server dry run)")
if applied:
    answer("job/x " + ("unchanged" if line.replace(" --selector=app.kubernetes.io/part-of=met-art", "") in before or
        "train-distributed" in line and before.count("train-distributed.yaml") else "created"))
killed = " exec w1" in before
if "job-completion-index=0" in line:
    answer("w0b" if killed else "w0a")
if "job-completion-index=1" in line:
    answer("w1")
if ".status.phase" in line:
    phases = dict(w0a="Failed", w0b="Running")
    hostpath = "-2 " in line
    pod = words[words.index("pod") + 1] if "pod" in words else ""
    if "persistentvolumeclaim" in words:
        answer("Bound")
    if "persistentvolume" in words:
        answer("Released")
    answer(phases.get(pod, "Failed" if hostpath else "Succeeded"))
if "@.status" in line:
    is_first_list = "download-met-art" in line and " .reason" not in before
    answer("Failed" if is_first_list else "Complete")
if ".reason" in line:
    journal.write_text(journal.read_text() + " .reason" + chr(10))
    answer("PodFailurePolicy")
if ".podIP" in line:
    answer("http://10.0.0.1:8000" if "http" in line else "10.0.0.1")
if " cp access" in line:
    for name in ("model.ckpt-100.index", "eval/metrics.json"):
        path = Path(words[-1]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
if "create_connection" in line:
    answer("refused", 1)
if "port-forward" in line:
    print("Forwarding from 127.0.0.1:40000 -> 6006", flush=True)
    time.sleep(600)
if " logs " in line and "-2 " in line:
    answer("error: /logs belongs to user 0:0 (mode 755) and user 1000:1000 may not write there; name another")
if " logs " in line and "--timestamps" in line:
    answer("[a] 1 interrupted: worker 1 (w1) died: x\\n[a] 2 trained to step 100: x\\n[b] 2 trained to step 100: x")
if " logs " in line and ("w0a" in words):
    answer("training: 10 of 100 steps\\ninterrupted: worker 1 (w1:2222) died: its connection closed")
if " logs " in line:
    answer("from step 12 to 100\\ntraining: 10 of 100 steps\\ninterrupted: saved /logs/model.ckpt-12 at step 12\\n"
        "trained to step 100: loss\\nx: top-1 0.9\\n 90.0%  China\\n 10.0%  French")
answer()
"""
CURL = """#!{python}
print('{{"predictions": [{{"labels": ["China", "French"]}}]}}')
"""
STEPS = re.findall(r"^step (\S+) ", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(wrong: tuple[str, str, int] | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
        for name, program in (("kubectl", KUBECTL), ("curl", CURL)):
            text = program.format(python=sys.executable, journal=str(tmp_path / "journal"), wrong=wrong)
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        search = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [str(SCRIPT)],
            env=os.environ | {"PATH": search} | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run


def test_it_prints_a_line_a_step_and_cleans_up(run: Run, tmp_path: Path) -> None:
    result = run()
    _, *steps, last = result.stdout.splitlines()
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line.split()[:2] for line in steps] == [["ok", name] for name in STEPS]
    assert last == "all steps passed" and len(STEPS) == 16
    journal = (tmp_path / "journal").read_text().splitlines()
    deleted = next(line for line in journal if line.startswith("delete namespace met-art-check-"))
    assert len(re.findall(r"met-art-check-\d+(?:-2)?", deleted)) == 2


@pytest.mark.parametrize(
    ("step", "wrong"),
    [
        ("namespaces", ("create namespace", "forbidden", 1)),
        ("admitted", ("dry-run", 'Warning: would violate PodSecurity "restricted:latest"', 0)),
        ("delete", ("logs --follow", "Session failed to close after 30 seconds", 0)),
        ("tensorboard", ("describe pod tensorboard", "Traceback (most recent call last):", 0)),
        ("tensorboard", ("create_connection", "connected", 0)),
        ("workers", ("logs w0a", "training: 10\nE0000 00:00 ring_alg.cc\ninterrupted: worker 1 (w1:2222) died: x", 0)),
        ("wrong-list", (r"\.reason", "BackoffLimitExceeded", 0)),
    ],
)
def test_a_wrong_answer_fails_its_step_and_ends_the_run(
    step: str, wrong: tuple[str, str, int], run: Run, tmp_path: Path
) -> None:
    result = run(wrong)
    lines = [line.split()[:2] for line in result.stdout.splitlines()]
    assert result.returncode == 1
    assert lines[1 : STEPS.index(step) + 2] == [["ok", name] for name in STEPS[: STEPS.index(step)]] + [["FAIL", step]]
    assert "all steps passed" not in result.stdout
    assert "delete namespace" in (tmp_path / "journal").read_text()


def test_steps_can_be_left_out(run: Run) -> None:
    lines = run(SKIP=" ".join(STEPS[1:])).stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [["ok", "namespaces"], *(["-", name] for name in STEPS[1:])]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on this machine")
def test_the_script_has_no_mistakes_that_shellcheck_knows() -> None:
    result = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
