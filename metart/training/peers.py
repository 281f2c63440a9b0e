"""Finds the other workers of a training run, and notices when one of them is lost. No TensorFlow here.

TensorFlow blocks without a word for a peer that never comes, and for one that freezes. So the workers
meet before TensorFlow starts and stay in touch until the end: every worker holds one connection to
worker 0, over which a line goes each way every second:

    worker 1 of 3 1f…   to worker 0: who it is, what it trains (a hash), and that it lives
    missing 2           from worker 0, until all are there
    missing             from worker 0: all are there
    told to stop        to worker 0: from one that got SIGTERM; all stop after the same step
    busy                from any: it saves or measures, the others wait for its next step
    lost 2              from worker 0: who died or froze; everybody leaves
    bye …               from any: it leaves, and why if not because it has done its part; from worker 0 when all have
    refused …           from worker 0: the two do not belong to the same run

A worker that dies closes its connection (its kernel does); one that freezes falls silent. Worker 0 hears of
everything first: the last line of its log says who was lost and why, those of the others point to it.

TensorFlow has connections of its own, which may fail while these work. The main thread is in a step then, which never
ends, and Python runs no signal handler there. So the thread that watches the others watches the main thread as well.
"""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

from metart.common.flags import STATUS_RETRY, Retry, UserError
from metart.common.interruption import Interruption

HEARTBEAT_SECONDS = 1.0  # Between two lines on a connection.
TIMEOUT_SECONDS = 10.0  # A healthy worker on an overloaded machine may well miss a few beats.
GRACE_SECONDS = 4.0  # For the main thread to leave by itself, after a loss, before the process is ended under it.
SHUTDOWN_SECONDS = 25.0  # The same after another has left; and for all to be done at the end.
STOP_SECONDS = 60.0  # For a step to end after SIGTERM or Ctrl-C: half of the time that a pod has; then it saves.
STEP_SECONDS = 900.0  # For any step: more than the first one of a large network takes, compiled and on a slow machine.
# For all to be there. A pod may be without a node for hours, and one that leaves meanwhile only gives its own to the
# other, which then waits in its turn, until the Job has no retries left.
WAIT_SECONDS = 24 * 3600.0
LINE_SECONDS = 10.0  # Between two lines of the log while waiting; grows to a minute.
MAX_LINE_BYTES = 65536  # The numbers of ten thousand missing workers; whoever connects may not fill the memory.
MAX_STRANGERS = 100  # Connections that are not from workers; they may not use up the open files either.


class Peers:
    """The other workers of a run: `meet` them, ask `lost` after an error, `leave` them at the end."""

    def __init__(self, addresses: Sequence[str], index: int, run: str = ""):
        """Takes the `host:port` of every worker in order, which of them this is, and a hash of what it trains."""
        self._addresses = addresses
        self._index = index
        self._run = run
        self._hello = f"worker {index} of {len(addresses)} {run}".rstrip()
        self._links: dict[int, _Link] = {}  # Worker 0 has one to each other worker, they have one to worker 0.
        self._leaving: list[_Link] = []  # Those to workers that have said good-bye; they wait for ours.
        self._unidentified: list[_Link] = []  # Connections to worker 0 that have not said yet who they are.
        self._missing = [0]  # What worker 0 said last, at any other worker.
        self._reason = ""
        self._stopping: set[int] = set()  # At worker 0: those that got SIGTERM.
        self._failed = False  # Whether the reason is another one than that worker 0 has done its part.
        self._lost = threading.Event()
        self._left = threading.Event()
        self._end = math.inf  # When this process has to be gone.
        self._busy = False
        self._progress = time.monotonic()  # When the last step ended, or what counts like one.
        self._step_limit = math.inf  # Seconds from then on.
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def meet(self, interruption: Interruption, wait_seconds: float = WAIT_SECONDS) -> None:
        """Returns when all workers are there at the same time; from then on they are watched.

        When a worker is lost later, this process ends with STATUS_RETRY unless `leave` is called within
        GRACE_SECONDS: the main thread may be in a step that waits for the lost worker and never ends. The same when a
        step does not end within STOP_SECONDS of a signal, or takes STEP_SECONDS; so call `step_done` after each step,
        and do in `busy` what is none.

        Raises:
            UserError: This worker's port is taken, or worker 0 belongs to another run.
            Retry, KeyboardInterrupt: Somebody was still missing after `wait_seconds`; or a signal came.
        """
        self._interruption = interruption
        port = split_address(self._addresses[self._index])[1]
        try:
            listener = _listen(port)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise UserError(f"worker {self._index} cannot use port {port}: {reason}; choose another") from None
        start = last_line = time.monotonic()
        with listener:  # The port is TensorFlow's as soon as all have met.
            listener.setblocking(False)
            while missing := (self._accept(listener) if self._index == 0 else self._call()) or self._unresolved():
                interruption.leave("nothing is trained yet; run the same command again")
                names = ", ".join(map(self._name, missing))
                now = time.monotonic()
                if now - start > wait_seconds:
                    raise Retry(
                        f"no sign of {names} within {wait_seconds:.0f} s; check that it runs and that its address is "
                        "right, then run the same command again"
                    )
                if now - last_line > max(LINE_SECONDS, min(60, (now - start) / 10)):
                    last_line = now
                    print(
                        f"waiting for {names}, {now - start:.0f} s so far; check that it runs and that its address is "
                        "right",
                        file=sys.stderr,
                        flush=True,
                    )
                time.sleep(HEARTBEAT_SECONDS)
        for link in self._unidentified:
            link.close()
        self._watcher.start()

    def step_done(self) -> None:
        """Notes that the main thread is not stuck."""
        self._progress = time.monotonic()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Lets the block take its time, and the others, who wait for the step after it."""
        self._busy = True
        try:
            yield
        finally:
            self.step_done()
            self._busy = False

    def lost(self) -> str | None:
        """Returns who was lost, None if nobody was; waits, as an error of TensorFlow may come before we know why."""
        return self._reason_and_advice() if self._lost.wait(TIMEOUT_SECONDS + GRACE_SECONDS) else None

    def told_to_stop(self) -> str:
        """Names, for a worker that stops because another one got SIGTERM, that other one."""
        if self._index != 0:
            return f"another worker ({self._name(0)} says which)"
        end = time.monotonic() + 3 * HEARTBEAT_SECONDS  # It may have stopped faster than it could say so.
        while not self._stopping and time.monotonic() < end:
            time.sleep(HEARTBEAT_SECONDS / 10)
        return ", ".join(map(self._name, sorted(self._stopping))) or "another worker"

    def leave(self, wait_seconds: float, reason: str = "") -> str | None:
        """Ends the watch and tells the others, which have to leave as well, and why if it is not the end of the run.

        Waits for all to have done their part: TensorFlow's server here may still have to send them the end of the last
        step, and without it they take long to close their sessions.

        Returns:
            At all but worker 0, which finishes for all: why it has not; None where it has, or did not say in time.
        """
        self._left.set()
        self._watcher.join()
        links = [*self._links.values(), *self._leaving]
        bye = " ".join(["bye", *reason.split()])
        if self._index != 0:
            for link in links:
                self._say_if_told(link)
                link.send(bye)
        end = time.monotonic() + wait_seconds
        while self._links and time.monotonic() < end:
            for index, link in list(self._links.items()):
                link.send(self._hello)  # Whoever is silent looks frozen.
                lines = link.receive()
                byes = [line for line in lines or [] if line.startswith("bye")]
                if byes:
                    self._note_bye(index, byes[0])
                elif lines is None:
                    del self._links[index]
                    self._note_loss(index, link.ending)
            time.sleep(HEARTBEAT_SECONDS / 10)
        if self._index == 0:
            for link in links:
                link.send(bye)
        for link in links:
            link.close()
        return self._reason_and_advice() if self._failed and self._index != 0 else None

    def _accept(self, listener: socket.socket) -> list[int]:
        """Worker 0: takes in who has come and tells them who has not; returns the latter."""
        limit = MAX_STRANGERS + len(self._addresses)
        with contextlib.suppress(OSError):  # Nobody else is calling, or one has hung up.
            for _ in range(limit):
                self._unidentified.append(_Link(listener.accept()[0]))
        while len(self._unidentified) > limit:
            self._unidentified.pop(0).close()
        for link in self._unidentified[:]:
            lines = link.receive()
            if lines == []:
                continue
            self._unidentified.remove(link)
            hello = re.fullmatch(r"(worker (\d{1,9}) of (\d{1,9}))(?: (\w{1,64}))?", lines[0]) if lines else None
            if hello is None:
                link.close()
            elif int(hello[3]) != len(self._addresses) or not 0 < int(hello[2]) < len(self._addresses):
                own = f"worker {self._index} of {len(self._addresses)}"
                link.send(f"refused {hello[1]} does not belong to {own}; start all with the same number")
                link.close()
            elif (hello[4] or "") != self._run:
                link.send(
                    f"refused worker {hello[2]} has other flags of training, or other records, than worker 0; start "
                    "all with the same, from the same image"
                )
                link.close()
            else:
                self._links[int(hello[2])] = link
        for index, link in list(self._links.items()):
            while lines := link.receive():  # Its end comes behind all that it said before.
                pass
            if lines is None:
                self._links.pop(index).close()
        missing = [index for index in range(1, len(self._addresses)) if index not in self._links]
        for link in self._links.values():
            link.send(" ".join(["missing", *map(str, missing)]))
        return missing

    def _call(self) -> list[int]:
        """Any other worker: calls worker 0 and returns who is missing, as far as known here."""
        if 0 not in self._links:
            try:
                address = split_address(self._addresses[0])
                self._links[0] = _Link(socket.create_connection(address, timeout=HEARTBEAT_SECONDS))
            except OSError:  # Not started, or its name is not known yet.
                return [0]
            self._missing = [0]
        self._links[0].send(self._hello)
        lines = self._links[0].receive()
        if lines is None:
            self._links.pop(0).close()
            return [0]
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "refused":
                raise UserError(rest)
            if kind == "missing":  # Other lines when worker 0 has met all and watches already.
                self._missing = self._workers(rest)
        return self._missing

    def _workers(self, text: str) -> list[int]:
        """Returns the numbers of workers in a line, which may come from a stranger and be anything."""
        numbers = [int(word) for word in text.split() if re.fullmatch("[0-9]{1,9}", word)]
        return [number for number in numbers if number < len(self._addresses)]

    def _unresolved(self) -> list[int]:
        """Returns the workers whose names are not known here yet; in a cluster they may lag behind the pods."""
        unresolved = []
        for index, address in enumerate(self._addresses):
            try:
                socket.getaddrinfo(*split_address(address))
            except OSError:
                unresolved.append(index)
        return unresolved

    def _watch(self) -> None:
        """Exchanges lines until this worker leaves, or ends the process when it has to and does not."""
        while not self._left.wait(HEARTBEAT_SECONDS):
            for index, link in list(self._links.items()):
                link.send(self._hello)
                if self._busy:
                    link.send("busy")
                self._say_if_told(link)
                lines = link.receive()
                for line in ["lost"] if lines is None else lines:
                    self._take(index, link, line)
            for link in list(self._leaving):  # They wait for our good-bye.
                link.send(self._hello)
            self._watch_main_thread()
            if time.monotonic() > self._end and not self._left.is_set():
                self._exit()

    def _take(self, index: int, link: "_Link", line: str) -> None:
        """Acts on what a worker said, or on `lost` for one that is gone."""
        if line == "told to stop":
            self._stopping.add(index)
        elif line == "busy" and self._step_limit > GRACE_SECONDS:
            self.step_done()
        elif line.startswith("bye") and index in self._links:
            self._note_bye(index, line)
            self._leaving.append(link)
            if line[4:] or self._index != 0:  # Worker 0 may wait for all to write what ends a run.
                self._end = min(self._end, time.monotonic() + SHUTDOWN_SECONDS)
        elif line.startswith("lost"):
            for lost in [index] if link.ending else self._workers(line):
                for other in self._links.values():
                    other.send(f"lost {lost}")
                self._links.clear()
                what = link.ending or f"was lost, the last line of {self._name(0)} says why"
                if lost == self._index:
                    what = f"gave the others no sign for {TIMEOUT_SECONDS:.0f} s: it was frozen"
                self._note_loss(lost, what)
                self._end = min(self._end, time.monotonic() + GRACE_SECONDS)

    def _watch_main_thread(self) -> None:
        """Lets the process end where a step takes too long, or the main thread does not see a second Ctrl-C."""
        signals = self._interruption.arrived()
        if signal.SIGINT in signals[1:]:
            limit, reason = GRACE_SECONDS, "Ctrl-C twice"
        elif signals:
            name = "Ctrl-C" if signals[0] == signal.SIGINT else "SIGTERM"
            limit, reason = STOP_SECONDS, f"no step ended within {STOP_SECONDS:.0f} s of {name}"
        else:
            limit, reason = STEP_SECONDS, f"no step ended for {STEP_SECONDS:.0f} s, although all workers are there"
        if limit != self._step_limit or (self._busy and limit > GRACE_SECONDS):
            self._step_limit = limit
            self.step_done()
        elif time.monotonic() - self._progress > limit:
            if not self._failed:  # That worker 0 has done its part is not why this one ends.
                self._reason = reason
            self._end = -math.inf

    def _exit(self) -> NoReturn:
        """Ends the process under the main thread."""
        for link in self._links.values():
            link.send(f"bye {self._reason}")
        sys.stdout.flush()
        print(f"interrupted: {self._reason_and_advice()}", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT if signal.SIGINT in self._interruption.arrived() else STATUS_RETRY)

    def _say_if_told(self, link: "_Link") -> None:
        if self._interruption.arrived() and self._index != 0:
            link.send("told to stop")

    def _note_bye(self, index: int, line: str) -> None:
        del self._links[index]
        self._note_loss(index, f"left: {line[4:]}" if line[4:] else "left, its log says why", failed=bool(line[4:]))

    def _note_loss(self, index: int, what: str, failed: bool = True) -> None:
        """Keeps the first reason to leave, for the main thread."""
        if not self._lost.is_set():
            self._reason, self._failed = f"{self._name(index)} {what}", failed
            self._lost.set()

    def _reason_and_advice(self) -> str:
        return f"{self._reason}; run the same command again, from the last checkpoint on"

    def _name(self, index: int) -> str:
        return f"worker {index} ({self._addresses[index]})"


class _Link:
    """A connection that carries lines and knows when the other side was last heard."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        self._connection = connection
        self._rest = b""
        self.ending = ""  # Why nothing more can come.
        self._heard = time.monotonic()

    def send(self, line: str) -> None:
        """Sends a line; whether the other side is there, only `receive` tells."""
        with contextlib.suppress(OSError):
            self._connection.send(line.encode() + b"\n")

    def receive(self) -> list[str] | None:
        """Returns the lines that have come; None if the other side is gone or silent for too long."""
        try:
            data = self._connection.recv(MAX_LINE_BYTES)
        except BlockingIOError:
            if time.monotonic() - self._heard < TIMEOUT_SECONDS:
                return []
            self.ending = f"gave no sign for {TIMEOUT_SECONDS:.0f} s: it froze, or its machine or the network failed"
            return None
        except OSError:
            data = b""
        if not data or len(self._rest) > MAX_LINE_BYTES:
            self.ending = "died: its connection closed without a word; out of memory, or killed"
            return None
        self._heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        self._connection.close()


def _listen(port: int) -> socket.socket:
    """Returns a listener for IPv4 and, where the machine has it, IPv6."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # Switched off.
                raise
    return socket.create_server(("", port))


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of `host:port`; without the brackets that an IPv6 address has there.

    Raises:
        UserError: It is not of that form.
    """
    host, _, port = address.rpartition(":")
    is_ipv6 = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_ipv6 else host
    if not host or (":" in host) != is_ipv6 or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"{address} is not the address of a worker; write it as host:port, as in 10.0.0.7:2222 or [fd00::7]:2222"
        )
    return host, int(port)
