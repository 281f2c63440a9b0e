"""Files that are whole or absent: written under a temporary name, then renamed; and folders that one process has.

A path that a user gives may be a pipe, a link or a device as well: such are read once and written through.
"""

from collections.abc import Iterator, Sequence
import contextlib
import csv
import errno
import fcntl
import io
import json
import os
from pathlib import Path
import re
import shutil
import stat
import sys
import tempfile
from typing import IO, Any

from metart.common.flags import Retry, UserError

PARTIAL_SUFFIX = ".partial"  # What an interrupted run leaves behind; the next run overwrites it.
PARTIAL_PREFIX = "partial-"  # The same of a folder.
LOCK_FILENAME = ".lock"  # Stays when its process has ended; only the lock on it counts.


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str], filename: str = LOCK_FILENAME) -> Iterator[None]:
    """Makes a folder where there is none and keeps it for this process; the system ends that with the process.

    Raises:
        Retry: Another process has it. Not an error of the user's that would end a Job for good: on a shared volume the
            lock of a node that was lost lasts a minute or two.
        UserError: This process may not write there.
    """
    make_folder(folder)
    with contextlib.ExitStack() as lock:
        with _explaining_permissions():
            holder = lock.enter_context(exclusive_lock(Path(folder) / filename))
        if holder:
            raise Retry(
                f"{holder} is writing to {folder}; run the same command again when that has ended, or name another "
                "folder"
            )
        yield


def read_json(path: str | os.PathLike[str]) -> Any:
    """Returns what a JSON file holds.

    Raises:
        ValueError: It is not JSON in UTF-8, or too deeply nested for Python.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is too deeply nested") from None


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Makes a folder to write to, where there is none.

    Raises:
        UserError: This process may not, or something else has that name.
    """
    with _explaining_permissions():
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(f"{folder} is a file, or a link to nothing; remove it or name another folder") from None
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            reason = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(reason, os.strerror(reason), str(folder))


@contextlib.contextmanager
def _explaining_permissions() -> Iterator[None]:
    """Turns a PermissionError into a UserError that names the owner of the path, and what to do."""
    try:
        yield
    except PermissionError as error:
        path = Path(error.filename)
        path = path if os.access(path, os.F_OK) else path.parent
        status, user = path.stat(), f"{os.geteuid()}:{os.getegid()}"
        if status.st_uid == os.geteuid():
            advice = "run `chmod u+rwx` on it"
        else:
            advice = (
                f"run `chown --recursive {user}` on it. For a volume of a cluster do that where its disk is: fsGroup "
                "changes nothing on hostPath and most NFS"
            )
        raise UserError(
            f"{path} belongs to user {status.st_uid}:{status.st_gid} (mode {status.st_mode & 0o7777:o}) and user "
            f"{user} may not write there; name another folder, or {advice}"
        ) from None


@contextlib.contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Holds a lock that any number of processes may hold, as long as none has the exclusive one; waits for that.

    Without effect on a file system without locks, and where the file is not there and cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)  # For reading: the volume may be read only.
    except OSError:
        yield
        return
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[str]:
    """Tries to hold a lock that no other process may hold.

    Yields:
        Nothing if it is held, or the file system has no locks and the user has to look out; otherwise who has it.
    """
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield _holder(os.fstat(file.fileno()))
            return
        except OSError:
            pass
        try:  # Its last holder may have renamed the file since it was opened here.
            is_there = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            is_there = False
        yield "" if is_there else "another process"


def _holder(status: os.stat_result) -> str:
    """Returns the process that has a lock on a file, as far as the system tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            # As in "1: FLOCK ADVISORY READ 4711 08:01:1234567 0 EOF"; "->" stands for one that waits.
            fields = line.split()
            if fields[1] != "FLOCK":
                continue
            major, minor, inode = fields[5].split(":")
            device = os.makedev(int(major, 16), int(minor, 16))
            if (device, int(inode)) == (status.st_dev, status.st_ino):
                words = Path(f"/proc/{fields[4]}/cmdline").read_bytes().decode(errors="replace").split("\0")
                script = next((Path(word).name for word in words if word.endswith(".py")), "another program")
                return f"{script} (process {fields[4]})"
    return "another process"


@contextlib.contextmanager
def open_seekable(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a file that can be read more than once; what comes through a pipe is copied first.

    Yields:
        A file at its start; its `name` is a path that has the same content.

    Raises:
        UserError: A device, which may have no end.
    """
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode):
            yield file
            return
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or file.isatty()):
            raise UserError(f"{path} is a device, not a file")
        with tempfile.NamedTemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield copy


def csv_line(cells: Sequence[object]) -> str:
    """Returns a row of a CSV file, ended by a line feed; what has a line end of any kind in it is quoted.

    Before Python 3.13 the csv module quotes only the characters that end its own lines, and its readers take a carriage
    return that is not quoted for the end of one.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def read_text(path: str | os.PathLike[str]) -> str:
    """Returns the text of a file in UTF-8, its line ends as they are; a byte-order mark is left out.

    Raises:
        UserError: Another encoding; names the line. Or a device.
    """
    with open_seekable(path) as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line_number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line_number} is not text in UTF-8; write the file again in UTF-8") from None


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; it takes its place when the block ends without error.

    The new file has the permissions of the old one. A symbolic link stays, what it leads to is replaced. What exists
    and is no file (a pipe, a device), and what this process has as its output (/dev/stdout), stays as well and gets the
    content at the end.

    Raises:
        Retry: Another process is writing the file.
        UserError: It would be in a folder that does not exist.
    """
    target = Path(path)
    through = _written_through(target)
    if through is not None:
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder) / "partial"
            yield partial
            if sys.stdout is not None:
                sys.stdout.flush()
            # A copy of the descriptor goes on where the output is; /dev/stdout by its name would start the file again.
            with (
                open(partial, "rb") as source,
                open(os.dup(through) if isinstance(through, int) else through, "wb") as file,
            ):
                shutil.copyfileobj(source, file)
        return
    if target.is_symlink():
        target = Path(os.path.realpath(target))
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    with contextlib.ExitStack() as lock:
        try:
            holder = lock.enter_context(exclusive_lock(partial))
        except FileNotFoundError:
            raise UserError(f"{path}: there is no folder {target.parent}; make it, or name another") from None
        if holder:
            raise Retry(f"{holder} is writing {target}; run the same command again when that has ended")
        try:
            try:
                partial.write_bytes(b" ")
            except PermissionError:  # On SMB a lock keeps out all other descriptors, those of this process as well.
                lock.close()
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())  # Otherwise a power cut can leave the new name on an empty file.
            with contextlib.suppress(OSError):  # No old one, or a file system without permissions.
                shutil.copymode(target, partial)
            os.replace(partial, target)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder beside `folder`; it takes its place when the block ends, and is removed if it raises."""
    if not os.path.ismount(folder):
        folder = Path(os.path.realpath(folder))  # Other links stay.
    partial, former = (folder.with_name(prefix + folder.name) for prefix in (PARTIAL_PREFIX, "former-"))
    if former.exists() and not folder.exists():  # A run was killed between the two renames below.
        former.rename(folder)
    _remove_folder(partial)
    partial.mkdir()
    try:
        yield partial
        _remove_folder(former)
        if folder.exists():
            folder.rename(former)  # A deletion takes time, in which the run may be killed.
        partial.rename(folder)
    finally:
        _remove_folder(partial)
    _remove_folder(former)


def _remove_folder(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _written_through(path: Path) -> Path | int | None:
    """Returns what must not be replaced: the path of a pipe or device, or the number of an open file; else None."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    for descriptor in (1, 2, int(path.name) if re.fullmatch("[0-9]{1,6}", path.name) else 1):  # 3 of /dev/fd/3.
        with contextlib.suppress(OSError):  # Closed.
            if os.path.samestat(status, os.fstat(descriptor)):
                return descriptor
    return None if stat.S_ISREG(status.st_mode) else path


@contextlib.contextmanager
def open_replacing(path: str | os.PathLike[str], mode: str = "w", **keywords: Any) -> Iterator[IO[Any]]:
    """Opens `path` for writing so that readers see the old file or the complete new one.

    Text is UTF-8 with the newlines as written (what the csv module asks for).
    """
    if "b" not in mode:
        keywords = {"encoding": "utf-8", "newline": "", **keywords}
    with replacing(path) as partial, open(partial, mode, **keywords) as file:
        yield file
