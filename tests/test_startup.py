"""The start: on any terminal, in any place, with Ctrl-C at any time; demo.sh and test.sh in a folder that was moved."""

import ast
from collections.abc import Callable, Sequence
import importlib
import os
from pathlib import Path
import pty
import shutil
import signal
import subprocess
import sys
import tempfile

from conftest import REPOSITORY
import pytest
from test_layout import SCRIPTS

from metart.common import flags

INTERRUPTED = "interrupted: run the same command again to continue\n"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # Otherwise Python makes UTF-8 of the C locale.
# A Python that makes an environment in a moment: without pip, for which a script stands that says what it was asked.
STAND_IN = """\
#!/bin/sh
{python} -m venv --without-pip "$3"
pip=$(cd "$3" && pwd -P)/bin/pip
printf '#!/bin/sh\n"%s" -c "" && echo pip "$@"\n' "${{pip%pip}}python" >"$pip"
chmod +x "$pip"
"""
OLD = """\
#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\\n[ "$1" = -V ] && echo Python 3.8.20\\n' >"$3/bin/python"
chmod +x "$3/bin/python"
"""


def environment(**changes: str) -> dict[str, str]:
    """Returns the environment of the tests, in which every script finds this Python."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **changes}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_in_any_folder_and_any_locale(script: str, tmp_path: Path) -> None:
    """By its path, in Python's safe mode, which looks for no module beside the script, where only ASCII is known."""
    command = [str(REPOSITORY / script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(PYTHONSAFEPATH="1", **ASCII), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("utf-8").startswith(f"usage: {script} ")
    assert list(tmp_path.iterdir()) == []


def terminal_output(command: Sequence[str], **changes: str) -> bytes:
    """Returns what a program prints on a terminal, its stderr too."""
    reading, writing = pty.openpty()
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(**changes), stdout=writing, stderr=writing
    ) as process:
        os.close(writing)
        shown = b""
        while True:
            try:
                shown += os.read(reading, 65536)
            except OSError:  # Linux's way to say that the other end is closed.
                break
    os.close(reading)
    assert process.returncode == 0, shown
    return shown.replace(b"\r\n", b"\n")


def piped_output(command: Sequence[str], **changes: str) -> bytes:
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(**changes), stdout=subprocess.PIPE, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("text", "in_ascii", "in_latin_1", "in_utf_8"),
    [
        ("café", b"caf\\xe9", b"caf\xe9", "café".encode()),
        ("中文 …", b"\\u4e2d\\u6587 \\u2026", b"\\u4e2d\\u6587 \\u2026", "中文 …".encode()),
        ("caf\udce9.jpg", b"caf\xe9.jpg", b"caf\xe9.jpg", b"caf\xe9.jpg"),  # A file name in Latin-1.
        ("é\udce9", b"\\xe9\\udce9", b"\xe9\xe9", b"\xc3\xa9\xe9"),
        ("\ud800", b"\\ud800", b"\\ud800", b"\\ud800"),  # What JSON may hold and no encoding has.
    ],
)
def test_printing_never_fails(text: str, in_ascii: bytes, in_latin_1: bytes, in_utf_8: bytes) -> None:
    program = f"from metart.common import startup\nstartup.begin()\nprint({text!a})"
    command = [sys.executable, "-c", program]
    assert terminal_output(command, **ASCII) == in_ascii + b"\n"
    assert piped_output(command, PYTHONIOENCODING="latin-1") == in_latin_1 + b"\n"
    assert piped_output(command, **ASCII) == in_utf_8 + b"\n"
    assert terminal_output(command, LC_ALL="C.UTF-8") == in_utf_8 + b"\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    """What is printed to a stream that the shell closed must not end up in a file that took its number."""
    program = """
import sys
from metart.common import startup
startup.begin()
with open(sys.argv[1], "w") as file:
    file.write("mine")
    file.flush()
    for stream in (sys.stdout, sys.stderr):
        print("theirs", file=stream, flush=True)
    print(sys.stdin.read(), end="")
"""
    command = f'"$0" -c "$1" "$2" {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, program, str(tmp_path / "file")],
        cwd=REPOSITORY,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "mine"
    assert done.stdout == ("" if " >&-" in f" {closed}" else "theirs\n")
    assert done.stderr == ("" if "2>&-" in closed else "theirs\n")


LOADED = {  # What each script loads that takes long.
    "bigquery.py": "requests",
    "download.py": "PIL",
    "convert.py": "PIL",
    "train_image_classifier.py": "tensorflow",
    "eval_image_classifier.py": "tensorflow",
    "classify.py": "tensorflow",
    "export_model.py": "tensorflow",
}


@pytest.mark.parametrize(("swallowed", "number", "status"), [(False, 2, 130), (True, 2, 130), (True, 15, 75)])
@pytest.mark.parametrize("script", SCRIPTS)
def test_signals_while_libraries_load(script: str, swallowed: bool, number: int, status: int, tmp_path: Path) -> None:
    """Also where a library would lose the exception, as C code may."""
    library = tmp_path / LOADED[script]
    library.mkdir()
    # Many short waits: a signal that comes just before one does not cut it short.
    wait = "import os, sys, time\nos.write(1, b'loading')\nfor _ in range(600):\n    time.sleep(0.1)\n"
    if swallowed:
        wait = f"try:\n    {wait.rstrip().replace(chr(10), chr(10) + '    ')}\nexcept BaseException:\n    pass\n"
    (library / "__init__.py").write_text(wait)
    with subprocess.Popen(
        [sys.executable, str(REPOSITORY / script), "--help"],
        env=environment(PYTHONPATH=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.read(7) == "loading"
        process.send_signal(number)
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, output, errors) == (status, "", INTERRUPTED)


@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_that_takes_time_is_loaded_before_signals_are_in_order(script: str) -> None:
    before = (REPOSITORY / script).read_text("utf-8").partition("    startup.begin()\n")[0]
    imports = [node for node in ast.walk(ast.parse(before)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in imports] == [
        "from pathlib import Path",
        "import sys",
        "from metart.common import startup",
    ]


def test_what_the_shell_runs_in_the_background_still_ignores_ctrl_c() -> None:
    program = """
import os, signal
from metart.common import flags, startup
signal.signal(signal.SIGINT, signal.SIG_IGN)  # As the shell leaves it.
startup.begin()
os.kill(os.getpid(), signal.SIGINT)
flags.run(lambda argv: os.kill(os.getpid(), signal.SIGINT))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_in_main_is_an_exception_again_and_no_thread_delays_the_end() -> None:
    program = """
import signal, threading, time
from metart.common import flags, startup
startup.begin()
def main(argv):
    threading.Thread(target=time.sleep, args=(60,)).start()
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        print("put in order")
flags.run(main)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "put in order\n", INTERRUPTED)


TERMINATE = "def terminate(argv):\n    signal.raise_signal(signal.SIGTERM)"


def test_sigterm_is_a_reason_to_try_again_from_the_first_line_on() -> None:
    for where in ("startup.begin(); signal.raise_signal(signal.SIGTERM)", "startup.begin(); flags.run(terminate)"):
        program = f"import signal\nfrom metart.common import flags, startup\n{TERMINATE}\n{where}"
        done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (75, INTERRUPTED)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("around", ["{}", "SELECT * FROM '{}', WHERE", 'a\nfile "{}"\n'])
def test_a_name_that_cannot_be_written_is_one_line(encoding: str, around: str) -> None:
    text = around.format("a b/中\udce9")
    program = f"from metart.common import flags\nflags.run(lambda argv: {text!a}.encode({encoding!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: 'a b/\\u4e2d\\udce9' cannot be written in {encoding}; ")
    assert done.stderr.count("\n") == 1


def not_text(path: Path) -> str:
    """Returns the name of a copy of a file or folder, in Latin-1."""
    other = path.with_name(os.fsdecode(f"{path.stem}é{path.suffix}".encode("latin-1")))
    shutil.copytree(path, other) if path.is_dir() else shutil.copy(path, other)
    return str(other)


@pytest.fixture
def paths(dataset_dir: Path, train_dir: Path, tmp_path: Path) -> dict[str, str]:
    """What the scripts read, under names that are not UTF-8."""
    shutil.copytree(dataset_dir, tmp_path / "data")
    shutil.copytree(train_dir, tmp_path / "logs")
    (tmp_path / "table.csv").write_text(
        "Object ID,Culture,Department,Link Resource,Is Public Domain\n1,French,A,http://x/1,True\n"
    )
    shutil.copy(next(dataset_dir.glob("met_art/*/*")), tmp_path / "picture.jpg")
    there = {path.name: not_text(path) for path in list(tmp_path.iterdir())}
    return {"new": not_text(tmp_path / "table.csv") + ".new", "whole": str(tmp_path), **there}


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("bigquery.py --list=labels --metadata_csv={whole}/table.csv --output={new}", 0),
        ("bigquery.py --list=labels --metadata_csv={table.csv}", 1),
        ("download.py --list_file={table.csv}", 1),  # It is no list.
        ("convert.py --dataset_dir={data}", 0),
        ("train_image_classifier.py --dataset_dir={data} --train_dir={new}", 1),
        ("train_image_classifier.py --dataset_dir={whole}/data --train_dir={new} --model_name=mobilenet_v1_025", 1),
        ("eval_image_classifier.py --dataset_dir={data} --checkpoint_path={whole}/logs --eval_dir={new}", 1),
        ("eval_image_classifier.py --dataset_dir={whole}/data --checkpoint_path={logs} --eval_dir={new}", 1),
        ("classify.py --checkpoint_path={logs} --image_file={picture.jpg}", 1),
        ("classify.py --checkpoint_path={whole}/logs --image_file={picture.jpg} --format=csv", 0),
        ("classify.py --checkpoint_path={whole}/logs --image_file={picture.jpg} --explain_dir={new}", 0),
        ("export_model.py --checkpoint_path={whole}/logs --export_dir={new}", 1),
    ],
)
def test_names_that_are_not_utf_8_are_used_or_refused_in_one_line(
    command: str, status: int, paths: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    script, *arguments = command.split()
    for name, path in paths.items():
        arguments = [argument.replace(f"{{{name}}}", path) for argument in arguments]
    main = importlib.import_module(script.removesuffix(".py")).main
    with pytest.raises(SystemExit) as left:
        flags.run(lambda argv: main(arguments))
    errors = capfd.readouterr().err.splitlines()
    assert left.value.code == status, errors
    assert "damaged" not in "".join(errors)
    assert [line for line in errors if line.startswith("error: ")] == errors[len(errors) - status :]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what makes the environment, and a Python of its own beside it."""
    folder = tmp_path / "a clone"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(REPOSITORY / "requirements" / "install.sh", folder / "requirements")
    for name, text in (("python", STAND_IN.format(python=sys.executable)), ("old", OLD)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return folder


def install(folder: Path, python: str = "../python") -> subprocess.CompletedProcess[str]:
    command = ["sh", str(folder / "requirements" / "install.sh"), "cpu.lock"]
    return subprocess.run(command, env=environment(PYTHON=python), capture_output=True, text=True)


def installs_into(folder: Path, made_anew: bool) -> None:
    """Asserts that the environment of this folder, and no other, gets the packages."""
    done = install(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("--require-hashes --requirement requirements/cpu.lock\n")
    assert "\npip install " in done.stdout
    assert ("-m venv" in done.stdout) == made_anew
    assert str(folder.resolve()) in (folder / ".venv" / "bin" / "pip").read_text() or not made_anew


def moved(folder: Path) -> Path:
    return folder.rename(folder.parent / "moved")


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder.parent / "copy", symlinks=True))


def moved_above(folder: Path) -> Path:
    above = folder.parent / "above"
    above.mkdir()
    shutil.copy(folder.parent / "python", above)
    return folder.rename(above / folder.name)


def unfinished(folder: Path) -> Path:
    (folder / ".venv" / "bin" / "pip").unlink()
    return folder


def without_its_python(folder: Path) -> Path:
    """As after an upgrade of the system."""
    for path in (folder / ".venv" / "bin").glob("python*"):
        path.unlink()
        path.symlink_to("/no/such/python")
    return folder


def of_an_old_python(folder: Path) -> Path:
    shutil.rmtree(folder / ".venv")
    subprocess.run(["../old", "-m", "venv", ".venv"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("change", [moved, copied, moved_above, unfinished, without_its_python, of_an_old_python])
def test_an_environment_that_does_not_fit_is_made_anew(change: Callable[[Path], Path], clone: Path) -> None:
    installs_into(clone, made_anew=True)
    installs_into(clone, made_anew=False)
    clone = change(clone)
    installs_into(clone, made_anew=True)
    installs_into(clone, made_anew=False)


def test_an_environment_behind_a_link_stays(clone: Path) -> None:
    installs_into(clone, made_anew=True)
    other = clone.parent / "other"
    shutil.copytree(clone / "requirements", other / "requirements")
    (other / ".venv").symlink_to(clone / ".venv")
    installs_into(other, made_anew=False)


@pytest.mark.parametrize(
    ("python", "complaint"),
    [
        ("../old", "error: ../old is Python 3.8.20; TensorFlow needs Python 3.10 to 3.13: PYTHON=python3.13 …"),
        ("/bin/true", "error: /bin/true is no Python; TensorFlow needs Python 3.10 to 3.13: PYTHON=python3.13 …"),
        ("python3.0", "error: there is no python3.0; install Python 3.10 to 3.13, or name one: PYTHON=…"),
        ("../none", "error: there is no ../none; install Python 3.10 to 3.13, or name one: PYTHON=…"),
    ],
)
def test_a_python_that_does_not_do_is_one_line_and_the_next_one_starts_afresh(
    python: str, complaint: str, clone: Path
) -> None:
    done = install(clone, python)
    assert (done.returncode, done.stderr) == (1, f"{complaint}\n")
    installs_into(clone, made_anew=True)


@pytest.mark.parametrize("script", ["demo.sh", "test.sh", "requirements/install.sh cpu.lock"])
def test_a_folder_that_is_read_only_is_one_line(script: str) -> None:
    with tempfile.TemporaryDirectory() as above:  # One that every user may enter, unlike tmp_path.
        Path(above).chmod(0o755)
        folder = Path(above) / "clone"
        (folder / "requirements").mkdir(parents=True)
        for name in ("demo.sh", "test.sh", "requirements/install.sh"):
            shutil.copy(REPOSITORY / name, folder / name)
        folder.chmod(0o555)
        nobody = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}  # Root may write everywhere.
        done = subprocess.run(f"sh {script}", shell=True, cwd=folder, capture_output=True, text=True, **nobody)  # type: ignore[call-overload]
        assert done.returncode == 1
        complaint = f"error: cannot write to {folder}; copy the folder to where you may, and start there\n"
        assert (done.stdout, done.stderr) == ("", complaint)
        folder.chmod(0o755)


@pytest.mark.parametrize("call", ["sh clone/{script}", "cd clone && ./{script}", "cd clone && sh {script}"])
@pytest.mark.parametrize("script", ["demo.sh", "test.sh", "requirements/install.sh", ".ci/run", "requirements/lock.sh"])
def test_cdpath_leads_nowhere_else(script: str, call: str, tmp_path: Path) -> None:
    """The folder is changed to the script's own, not to one of the same name elsewhere; nothing else runs here."""
    (tmp_path / "bin").mkdir()
    for name in ("mktemp", "uv", "sh"):  # The first command of each script after `cd`.
        (tmp_path / "bin" / name).write_text("#!/bin/bash\npwd -P >>$LOG\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    here, elsewhere = tmp_path / "here" / "clone", tmp_path / "elsewhere"
    for folder in (here, elsewhere / "clone"):
        (folder / Path(script).parent).mkdir(parents=True)
        shutil.copy(REPOSITORY / script, folder / script)
    for name in (".venv", "requirements", ".ci", "clone"):
        (elsewhere / name).mkdir(exist_ok=True)
    log = tmp_path / "log"
    changes = {"CDPATH": str(elsewhere), "LOG": str(log), "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = call.format(script=script).replace("sh ", "/bin/sh ")
    command = command.replace("cd ", "CDPATH= cd ")
    done = subprocess.run(["/bin/sh", "-c", command], cwd=here.parent, env={**os.environ, **changes})
    assert done.returncode == 1
    expected = here / "requirements" if script == "requirements/lock.sh" else here
    assert log.read_text() == f"{expected}\n"


@pytest.mark.parametrize("setting", ["core.autocrlf=true", "core.eol=crlf", "core.autocrlf=input"])
def test_a_clone_made_with_windows_line_ends_has_none(setting: str, tmp_path: Path) -> None:
    command = ["git", "-c", setting, "checkout-index", "--all", f"--prefix={tmp_path}/"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    texts = [path for path in tmp_path.rglob("*") if path.suffix in (".sh", ".py", ".yaml", ".list", ".csv", ".lock")]
    assert {tmp_path / name for name in (*SCRIPTS, "demo.sh", "culture-labels.csv")} <= set(texts)
    assert [path for path in texts if b"\r" in path.read_bytes()] == []
    archive = "sample-dataset.tar.gz"
    assert (tmp_path / archive).read_bytes() == (REPOSITORY / archive).read_bytes()


def test_the_last_words_of_a_library_that_ends_the_process_are_shown(tmp_path: Path) -> None:
    """As TensorFlow's are on a processor that it was not built for; its notices are not."""
    (tmp_path / "tensorflow").mkdir()
    words = b"I0000 00:00:1 a.cc:1] a notice\\nF0000 00:00:1 b.cc:2] no such instruction\\n"
    program = f"import os\nos.write(2, {words!r}.replace(b'\\\\n', b'\\n'))\nos.abort()\n"
    (tmp_path / "tensorflow" / "__init__.py").write_text(program)
    command = [sys.executable, "-c", "import metart.networks.slim_compat"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(PYTHONPATH=str(tmp_path)), capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGABRT
    assert done.stderr == "F0000 00:00:1 b.cc:2] no such instruction\n"


@pytest.mark.parametrize("seed", ["2147483648", "9" * 40])
def test_a_huge_seed_is_a_wrong_flag(seed: str) -> None:
    flags = ["--train_dir=logs", "--dataset_dir=data", f"--random_seed={seed}"]
    command = [sys.executable, str(REPOSITORY / "train_image_classifier.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: argument --random_seed: {seed} is above 2147483647")
