"""The command line: strict flags with one meaning in all scripts, one-line errors, exit statuses."""

import argparse
import errno
import importlib
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

from metart.common import flags

REPOSITORY = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in REPOSITORY.glob("*.py") if "def build_parser(" in path.read_text())


def parser() -> flags.Parser:
    result = flags.Parser("A test.")
    result.add_argument("--batch_size", type=flags.number(int, 1), default=32)
    result.add_argument("--learning_rate", type=flags.number(float, 0, 1))
    result.add_boolean("clone_on_cpu", False, "no GPU")
    result.add_boolean("verbose", True, "say more")
    result.add_ignored("alsologtostderr", "eval_dir")
    return result


@pytest.mark.parametrize("spelling", ["--X", "--X=true", "--X=True", "--X=TRUE", "--X=1", "--X=yes"])
def test_spellings_of_true(spelling: str) -> None:
    assert parser().parse_args([spelling.replace("X", "clone_on_cpu")]).clone_on_cpu is True


@pytest.mark.parametrize("spelling", ["--noX", "--X=false", "--X=False", "--X=0", "--X=no"])
def test_spellings_of_false(spelling: str) -> None:
    assert parser().parse_args([spelling.replace("X", "verbose")]).verbose is False


def test_a_boolean_that_is_not_given_has_its_default_and_the_last_one_counts() -> None:
    assert (parser().parse_args([]).clone_on_cpu, parser().parse_args([]).verbose) == (False, True)
    assert parser().parse_args(["--noclone_on_cpu", "--clone_on_cpu"]).clone_on_cpu is True
    assert parser().parse_args(["--clone_on_cpu", "--noclone_on_cpu"]).clone_on_cpu is False


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert flags.path("~") == tmp_path
    assert flags.path("~/a [b] ~c") == tmp_path / "a [b] ~c"
    assert flags.path("./~/a") == Path("~/a")
    assert flags.path("a/~") == Path("a/~")
    for text in ("", "~no-such-user/a"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"path is empty|no such home folder; write \./~"):
            flags.path(text)


def test_flags_without_a_task_are_taken() -> None:
    parser().parse_args(["--alsologtostderr", "--eval_dir=/logs"])
    parser().parse_args(["--alsologtostderr=True", "--eval_dir", "/logs"])


def test_numbers_with_commas() -> None:
    parse = flags.comma_separated(flags.number(int, 32))
    assert parse("48,80") == [48, 80]
    assert parse("64") == [64]
    for wrong in ("48,31", "48,", "48;80", "48,8e1"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse(wrong)


def test_a_number_keeps_its_kind() -> None:
    parsed = parser().parse_args(["--batch_size=10", "--learning_rate=1e-3"])
    assert (parsed.batch_size, parsed.learning_rate) == (10, 0.001)
    assert isinstance(parsed.batch_size, int)


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--batch=10", "unrecognized arguments: --batch=10"),  # No abbreviations: slim has none.
        ("--bach_size=10", "unrecognized arguments: --bach_size=10"),
        ("stray", "unrecognized arguments: stray"),
        ("--batch_size=ten", "argument --batch_size: 'ten' is not a number"),
        ("--batch_size=1.5", "argument --batch_size: '1.5' is not a number"),
        ("--batch_size=0", "argument --batch_size: 0 is below 1"),
        ("--learning_rate=2", "argument --learning_rate: 2 is above 1"),
        ("--learning_rate=nan", "argument --learning_rate: 'nan' is not a finite number"),
        ("--learning_rate=inf", "argument --learning_rate: 'inf' is not a finite number"),
        ("--clone_on_cpu=maybe", "argument --clone_on_cpu: 'maybe' is neither true nor false"),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(
    argument: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_status:
        parser().parse_args([argument])
    assert exit_status.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {complaint}; see ")
    assert shown.err.endswith(" --help\n")
    assert (shown.err.count("\n"), shown.out) == (1, "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_refuses_an_unknown_flag(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        importlib.import_module(script).build_parser().parse_args(["--no_such_flag=1"])
    assert exit_status.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_help_has_each_flag_explained(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = importlib.import_module(script).build_parser()
    with pytest.raises(SystemExit) as exit_status:
        parser.parse_args(["--help"])
    assert exit_status.value.code == 0
    shown = capsys.readouterr().out
    assert f"python {script}.py" in shown  # The docstring's command.
    assert [action.dest for action in parser._actions if not action.help] == []
    words = " ".join(shown.split())
    for action in parser._actions:
        if isinstance(action.default, float) and "default:" not in action.help:
            assert f"{action.help}; default: {action.default}" in words


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_begins_with_what_it_reads_and_writes(script: str) -> None:
    form = (
        r"[^\n]+\.\n\nReads   .+?\.\nWrites  .+?\.\n\n"
        rf"(    python {script}\.py\b[^\n]*\n)+\n.*^Safe to run again[:.] .+\.\n"
    )
    assert re.fullmatch(form, importlib.import_module(script).__doc__ or "", re.DOTALL | re.MULTILINE)


def kind(action: argparse.Action) -> tuple[object, ...]:
    """Returns what a flag takes: the kind of its value, its choices, one or several."""
    value = "256" if action.choices is None else next(iter(action.choices))
    parsed = value
    if callable(action.type):
        parsed = action.type("1" if action.metavar == "BOOL" else value)
    value_kind = str if isinstance(parsed, os.PathLike) else type(parsed)
    return value_kind, action.choices and sorted(action.choices), action.nargs


def test_a_flag_takes_the_same_in_every_script() -> None:
    actions: dict[str, list[argparse.Action]] = {}
    for script in SCRIPTS:
        for action in importlib.import_module(script).build_parser()._actions:
            if action.help != argparse.SUPPRESS:
                actions.setdefault(action.option_strings[-1], []).append(action)
    assert len(actions["--dataset_dir"]) >= 4
    for flag, same in actions.items():
        assert len({repr(kind(action)) for action in same if len(same) > 1}) <= 1, flag


def leave(error: BaseException | None) -> int:
    """Returns the status of a script whose `main` raises this."""

    def main(argv: object) -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as exit_status:
        flags.run(main)
    assert isinstance(exit_status.value.code, int)
    return exit_status.value.code


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (flags.UserError("no folder x;\n  run convert.py"), 1, "error: no folder x; run convert.py\n"),
        (flags.Unreachable("12 pictures failed"), 75, "error: 12 pictures failed\n"),
        (flags.Retry("saved step 7"), 75, "interrupted: saved step 7\n"),
        (KeyboardInterrupt(), 130, "interrupted: run the same command again to continue\n"),
        (PermissionError(errno.EACCES, "Permission denied", "logs"), 1, "error: logs: Permission denied\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "error: No space left on device; free some space and run the same command again\n",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "/tmp"),
            1,
            "error: /tmp: Disk quota exceeded; free some space and run the same command again\n",
        ),
    ],
)
def test_what_ends_a_script_is_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(error) == status
    assert capsys.readouterr().err == line


def test_a_good_end_is_status_0_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(None) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("of a library, without a number")])
def test_our_own_mistakes_are_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        leave(error)


def test_a_reader_who_leaves_gets_no_complaint() -> None:
    program = "from metart.common import flags\nflags.run(lambda argv: [print('line') for _ in range(100_000)])"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
