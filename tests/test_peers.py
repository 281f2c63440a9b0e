"""Workers as real processes on this machine that are killed, frozen, told to stop, or never come."""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
from pathlib import Path
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from metart.common.flags import STATUS_ERROR, STATUS_RETRY, UserError
from metart.training import peers

Start = Callable[..., "subprocess.Popen[str]"]

# Without TensorFlow: the main thread sleeps as if in a step that never ends. The clock runs faster than in earnest.
PROGRAM = """
import contextlib, ctypes, json, resource, sys, time
from metart.training import peers
from metart.common.flags import Retry, run
from metart.common.interruption import Interruption

peers.HEARTBEAT_SECONDS, peers.TIMEOUT_SECONDS, peers.LINE_SECONDS = 0.1, 6.0, 0.5
peers.GRACE_SECONDS, peers.SHUTDOWN_SECONDS, peers.STOP_SECONDS = 0.2, 8.0, 2.0
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

def hang():  # Inside a library, where no signal handler of Python runs: it waits for a lock that it holds itself.
    mutex, library = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    library.pthread_mutex_init(mutex, None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)

def main(argv):
    everybody, reason, constants, stuck, *numbers = sys.argv[1:]
    vars(peers).update(json.loads(constants))
    index, wait_seconds, work_seconds, farewell_seconds, hours = map(float, numbers)
    others = peers.Peers(everybody.split(","), int(index))
    if hours:  # They pass within a second, while this one waits.
        start, clock = time.monotonic(), time.monotonic
        time.monotonic = lambda: clock() + 3600 * hours * (clock() - start > 1)
    with Interruption() as interruption:
        others.meet(interruption, wait_seconds or peers.WAIT_SECONDS)
        print("met", flush=True)
        if stuck:
            with others.busy() if stuck == "busy" else contextlib.nullcontext():
                hang()
        end = time.monotonic() + work_seconds
        while time.monotonic() < end and interruption.signal is None:
            time.sleep(0.02)
    if work_seconds == 0:
        while (told := others.told_to_stop()) == "another worker":
            pass
        print(told, flush=True)
    print("done", time.time(), flush=True)
    if lost := others.leave(farewell_seconds, reason):
        raise Retry(lost)
    print("left", time.time(), flush=True)

run(main)
"""


def addresses(count: int) -> list[str]:
    """Returns addresses on this machine that nobody uses; found together, so that they differ."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts worker `index` of a run; all are gone after the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(
        everybody: list[str],
        index: int,
        wait: float | None = 60,
        work: float = 60,
        farewell: float = 0,
        reason: str = "",
        hours: float = 0,
        stuck: str = "",  # Or where: "step" or "busy".
        **constants: float,
    ) -> subprocess.Popen[str]:
        numbers = index, wait or 0, work, farewell, hours
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM, ",".join(everybody), reason, json.dumps(constants), stuck),
                *map(str, numbers),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(peers.__file__).parents[2])},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Returns the exit status of a worker that ends by itself, and the last line of its stderr."""
    stderr = process.communicate()[1]
    return process.returncode, stderr.splitlines()[-1] if stderr else ""


def has_met(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None and process.stderr is not None
    met = process.stdout.readline() == "met\n"
    assert met, process.stderr.read()
    return met


@pytest.mark.parametrize("count", [2, 4])
def test_all_meet_and_leave(start: Start, count: int) -> None:
    everybody = addresses(count)
    processes = [start(everybody, index, work=0.5) for index in reversed(range(count))]
    assert all(map(has_met, processes))
    assert [end(process)[0] for process in processes] == [0] * count


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_worker_ends_all_others(start: Start, number: signal.Signals, victim: int) -> None:
    everybody = addresses(3)
    processes = [start(everybody, index) for index in range(3)]
    assert all(map(has_met, processes))
    processes[victim].send_signal(number)
    for index, process in enumerate(processes):
        if index != victim:
            reason = {
                signal.SIGKILL: "died: its connection closed without a word; out of memory, or killed",
                signal.SIGSTOP: "gave no sign for 6 s: it froze, or its machine or the network failed",
            }[number]
            if index != 0 and victim != 0:  # One log has the reason, the others say where it is.
                reason = f"was lost, the last line of worker 0 ({everybody[0]}) says why"
            assert end(process) == (
                STATUS_RETRY,
                f"interrupted: worker {victim} ({everybody[victim]}) {reason}; "
                "run the same command again, from the last checkpoint on",
            )
    if number == signal.SIGSTOP:  # It leaves too when it wakes up and finds itself alone.
        processes[victim].send_signal(signal.SIGCONT)
        assert end(processes[victim])[0] == STATUS_RETRY


@pytest.mark.parametrize("slowest", [0, 1, 2])
def test_nobody_leaves_before_all_are_done(start: Start, slowest: int) -> None:
    everybody = addresses(3)
    work = 8 if slowest == 0 else 2  # Longer than those that wait for worker 0 would bear a silence.
    processes = [start(everybody, index, work=work if index == slowest else 0.1, farewell=20) for index in range(3)]
    output = "".join(process.communicate()[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0, 0]
    times = {what: [float(time) for time in re.findall(rf"{what} (\S+)", output)] for what in ("done", "left")}
    assert len(times["done"]) == len(times["left"]) == 3
    assert max(times["done"]) <= min(times["left"])


def test_good_bye_leaves_the_others_time(start: Start) -> None:
    everybody = addresses(3)
    processes = [start(everybody, index, work=seconds) for index, seconds in enumerate((3, 0.1, 60))]
    assert all(map(has_met, processes))
    assert end(processes[1])[0] == end(processes[0])[0] == 0
    status, last = end(processes[2])
    assert status == STATUS_RETRY
    assert last.startswith(f"interrupted: worker 0 ({everybody[0]}) left, its log says why; ")


def test_all_hear_why_one_leaves(start: Start) -> None:
    everybody = addresses(3)
    processes = [start(everybody, 0), start(everybody, 1, work=0.1, reason="error: no\nroom"), start(everybody, 2)]
    assert all(map(has_met, processes))
    assert end(processes[1])[0] == 0
    reason = f"worker 1 ({everybody[1]}) left: error: no room; "
    assert end(processes[0])[1].startswith(f"interrupted: {reason}")
    assert end(processes[2])[1].startswith(f"interrupted: worker 0 ({everybody[0]}) left: {reason}")


def test_one_that_waits_for_the_others_at_the_end_does_not_look_frozen(start: Start) -> None:
    everybody = addresses(2)
    processes = [start(everybody, 0, work=0.1, farewell=30), start(everybody, 1, work=10, farewell=30)]
    assert [end(process) for process in processes] == [(0, ""), (0, "")]


def test_worker_0_that_dies_before_it_has_finished_is_a_loss(start: Start) -> None:
    everybody = addresses(2)
    processes = [start(everybody, 0), start(everybody, 1, work=0.1, farewell=60)]
    assert all(map(has_met, processes))
    assert processes[1].stdout is not None and processes[1].stdout.readline().startswith("done")
    processes[0].kill()
    status, last = end(processes[1])
    assert status == STATUS_RETRY and last.startswith(f"interrupted: worker 0 ({everybody[0]}) died: ")


@pytest.mark.parametrize(
    ("number", "name", "status"), [(signal.SIGTERM, "SIGTERM", STATUS_RETRY), (signal.SIGINT, "Ctrl-C", 130)]
)
def test_a_signal_ends_one_that_is_stuck_in_a_step(
    start: Start, number: signal.Signals, name: str, status: int
) -> None:
    everybody = addresses(2)
    processes = [start(everybody, 0), start(everybody, 1, stuck="step")]
    assert all(map(has_met, processes))
    processes[1].send_signal(number)
    reason = f"no step ended within 2 s of {name}; run the same command again, from the last checkpoint on"
    assert end(processes[1]) == (status, f"interrupted: {reason}")
    assert end(processes[0]) == (STATUS_RETRY, f"interrupted: worker 1 ({everybody[1]}) left: {reason}")


def test_a_second_ctrl_c_ends_one_that_is_stuck_in_a_step(start: Start) -> None:
    everybody = addresses(2)
    processes = [start(everybody, 0, stuck="busy", STOP_SECONDS=60), start(everybody, 1)]
    assert all(map(has_met, processes))
    processes[0].send_signal(signal.SIGINT)
    time.sleep(1)
    processes[0].send_signal(signal.SIGINT)
    status, last = end(processes[0])
    assert status == 130 and last.startswith("interrupted: Ctrl-C twice; ")


def test_a_step_that_never_ends_is_given_up(start: Start) -> None:
    everybody = addresses(2)
    processes = [start(everybody, 0, stuck="step", STEP_SECONDS=2), start(everybody, 1, stuck="step")]
    assert all(map(has_met, processes))
    reason = "no step ended for 2 s, although all workers are there; "
    assert end(processes[0])[1].startswith(f"interrupted: {reason}")
    assert end(processes[1])[1].startswith(f"interrupted: worker 0 ({everybody[0]}) left: {reason}")


def test_all_wait_for_one_that_saves_or_measures(start: Start) -> None:
    everybody = addresses(2)
    limits = {"STEP_SECONDS": 2}
    processes = [start(everybody, 0, stuck="busy", **limits), start(everybody, 1, stuck="step", **limits)]
    assert all(map(has_met, processes))
    processes[1].terminate()
    time.sleep(6)
    assert [process.poll() for process in processes] == [None, None]


def test_worker_0_knows_who_was_told_to_stop(start: Start) -> None:
    everybody = addresses(3)
    asking, told = start(everybody, 0, work=0, farewell=8), start(everybody, 1, farewell=8)
    bystander = start(everybody, 2, work=0, farewell=8)
    assert all(map(has_met, (asking, told, bystander)))
    told.terminate()
    assert asking.stdout is not None and asking.stdout.readline() == f"worker 1 ({everybody[1]})\n"
    assert bystander.stdout is not None
    assert bystander.stdout.readline() == f"another worker (worker 0 ({everybody[0]}) says which)\n"


def test_all_have_left_within_30_seconds() -> None:
    noticed = peers.TIMEOUT_SECONDS + peers.HEARTBEAT_SECONDS  # At worker 0, which tells the others.
    assert noticed + 2 * peers.HEARTBEAT_SECONDS + peers.GRACE_SECONDS < 30
    assert peers.SHUTDOWN_SECONDS + 2 * peers.HEARTBEAT_SECONDS < 30


@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_never_comes_is_named(start: Start, index: int) -> None:
    everybody = addresses(3)
    present = [start(everybody, 0, wait=6 if index == 0 else 60), start(everybody, 1, wait=6 if index == 1 else 60)]
    *waiting, last = present[index].communicate()[1].splitlines()
    assert present[index].returncode == STATUS_RETRY
    assert last.startswith(f"interrupted: no sign of worker 2 ({everybody[2]}) within 6 s; ")
    assert 4 <= len(waiting) <= 12  # One each half second, fewer on a busy machine.
    assert waiting[-1].startswith(f"waiting for worker 2 ({everybody[2]}), ")


@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_has_no_node_for_hours_is_waited_for(start: Start, index: int) -> None:
    """One that left meanwhile would give its node to the other, and they would take turns until the Job gives up."""
    everybody = addresses(2)
    for hours in (0.5, 23):
        patient = start(everybody, index, wait=None, work=0.5, hours=hours)
        assert patient.stderr is not None
        waiting = (line for line in patient.stderr if f" {hours * 3600 // 100:.0f}" in line)  # After the clock's leap.
        assert next(waiting, "").startswith(f"waiting for worker {1 - index} ({everybody[1 - index]}), ")
        late = start(everybody, 1 - index, work=0.5)
        assert has_met(patient) and has_met(late)
        assert end(late)[0] == end(patient)[0] == 0


def test_worker_0_is_named_where_it_never_comes(start: Start) -> None:
    everybody = addresses(2)
    status, last = end(start(everybody, 1, wait=1))
    assert status == STATUS_RETRY
    assert last.startswith(f"interrupted: no sign of worker 0 ({everybody[0]}) within 1 s; ")


@pytest.mark.parametrize("index", [0, 1])
def test_sigterm_ends_the_wait(start: Start, index: int) -> None:
    everybody = addresses(3)
    process = start(everybody, index)
    assert process.stderr is not None and process.stderr.readline().startswith("waiting for worker")
    process.terminate()
    assert end(process) == (STATUS_RETRY, "interrupted: nothing is trained yet; run the same command again")


def test_one_that_was_killed_while_waiting_may_come_again(start: Start) -> None:
    everybody = addresses(3)
    patient, first = start(everybody, 0), start(everybody, 1)
    assert first.stderr is not None and any("worker 2" in line for line in first.stderr)  # They have met.
    first.kill()
    first.communicate()
    others = [start(everybody, 1, work=1), start(everybody, 2, work=1)]
    assert has_met(patient) and all(map(has_met, others))


def test_nobody_meets_one_that_was_killed_in_the_last_moment(start: Start) -> None:
    everybody = addresses(3)
    patient = start(everybody, 0)
    assert patient.stderr is not None and "worker 1" in patient.stderr.readline()  # It listens.
    with socket.create_connection(peers.split_address(everybody[0])) as killed, killed.makefile() as lines:
        killed.sendall(b"worker 1 of 3\n")
        assert lines.readline() == "missing 2\n"
        patient.send_signal(signal.SIGSTOP)  # What happens now, it hears at once.
        killed.sendall(b"worker 1 of 3\n")
    others = [start(everybody, 2, work=1)]
    assert others[0].stderr is not None and "worker 0" in others[0].stderr.readline()  # It has called.
    patient.send_signal(signal.SIGCONT)
    others.append(start(everybody, 1, work=1))
    assert has_met(patient) and all(map(has_met, others))


def test_a_slow_worker_meets_one_that_watches_already(start: Start) -> None:
    everybody = addresses(2)
    with socket.create_server(peers.split_address(everybody[0])) as worker_0:
        worker = start(everybody, 1, work=0.5)
        connection, _ = worker_0.accept()
        with connection:
            connection.sendall(b"missing x 7\nlost x\nlost 7\n")  # As a stranger might; nobody heeds it.
            connection.sendall(b"missing\nworker 0 of 2\n")
            assert has_met(worker)
            assert end(worker)[0] == 0


def test_another_number_of_workers_is_refused(start: Start) -> None:
    everybody = addresses(3)
    start(everybody[:2], 0)
    assert end(start(everybody, 2)) == (
        STATUS_ERROR,
        "error: worker 2 of 3 does not belong to worker 0 of 2; start all with the same number",
    )


def test_another_run_is_refused(start: Start) -> None:
    everybody = addresses(2)
    worker_0 = start(everybody, 0, work=0.5)
    for hello, answer in (
        (b"worker 1 of 2 0123abcd\n", b"refused worker 1 has other flags"),
        (b"worker 1 of 2\n", b"missing\n"),
    ):
        while True:
            with contextlib.suppress(OSError):
                connection = socket.create_connection(peers.split_address(everybody[0]))
                break
        with connection:
            connection.sendall(hello)
            assert connection.recv(1000).startswith(answer)
    end(worker_0)


@pytest.mark.parametrize("greeting", [b"PRI * HTTP/2.0\r\n\r\n", b"worker 1" + 5000 * b"0" + b" of 2\n"])
def test_strangers_are_sent_away(start: Start, greeting: bytes) -> None:
    everybody = addresses(2)
    worker = start(everybody, 0)
    host, port = peers.split_address(everybody[0])
    deadline = time.monotonic() + 120
    answer = None
    while answer != b"":
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5) as stranger:
            stranger.sendall(greeting)
            answer = stranger.recv(1000)
    assert start(everybody, 1, work=0.5).wait() == 0
    assert has_met(worker)


def test_a_flood_of_strangers_does_not_end_the_wait(start: Start) -> None:
    everybody = addresses(2)
    worker = start(everybody, 0)
    assert worker.stderr is not None and worker.stderr.readline().startswith("waiting for worker")
    with contextlib.ExitStack() as strangers:
        for _ in range(300):  # More than the worker may open.
            strangers.enter_context(socket.create_connection(peers.split_address(everybody[0]), timeout=60))
        other = start(everybody, 1, work=0.5)
        assert has_met(worker) and has_met(other)


def test_workers_meet_over_ipv6(start: Start) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    everybody = [address.replace("127.0.0.1", "[::1]") for address in addresses(2)]
    processes = [start(everybody, index, work=0.5) for index in range(2)]
    assert [end(process) for process in processes] == [(0, ""), (0, "")]


def test_a_taken_port_is_an_error(start: Start) -> None:
    everybody = addresses(2)
    port = peers.split_address(everybody[1])[1]
    with socket.create_server(("", port)):
        assert end(start(everybody, 1)) == (
            STATUS_ERROR,
            f"error: worker 1 cannot use port {port}: Address already in use; choose another",
        )


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":2222", "host:port", "host:0", "host:65536", "host:-1", "::1:2", "[]:2", "[a]:2"]
)
def test_a_wrong_address_is_an_error(address: str) -> None:
    with pytest.raises(UserError, match="write it as host:port"):
        peers.split_address(address)


def test_an_address_in_two_parts() -> None:
    assert peers.split_address("[fd00::7]:2222") == ("fd00::7", 2222)
    assert peers.split_address("worker-0.workers:2222") == ("worker-0.workers", 2222)
