"""The lock of a run folder: one process at a time works there, and one that died is recognised.

The lock is the file ``run.lock``, created so that only one process can create it. Its holder touches it every few
seconds. On the machine of the holder the lock is stale when the holder's process is gone; seen from another
machine, when it has not been touched for a while. No clock of this machine is asked for the time: ages are
differences of times that the folder's own file system wrote, and waiting is counted by a clock that cannot jump.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from evalsuite.atomic_files import unwritable
from evalsuite.errors import StoreError

log = logging.getLogger(__name__)

NAME = "run.lock"
BEAT = 10.0
"""Seconds between two signs of life."""
SILENCE = 120.0
"""Seconds without a sign of life after which a holder on another machine is taken to be dead."""


@dataclass(frozen=True)
class Holder:
    """A process that works in a run folder.

    Attributes:
        token: Of this lock alone.
        host: Name of its machine.
        place: Boot and process namespace in which `pid` means something.
        pid: Its process.
        born: When its process started, as the system counts it: numbers of processes are used again.
    """

    token: str
    host: str
    place: str
    pid: int
    born: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> Holder:
    """Returns this process as a holder, with a new token."""
    return Holder(uuid.uuid4().hex, socket.gethostname(), _place(), os.getpid(), _born(os.getpid()))


def holder(root: Path) -> Holder | None:
    """Returns the process that works in a run folder, or died there; ``None`` if there is no lock."""
    try:
        return Holder(**json.loads((root / NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def alive(root: Path, process: Holder, *, patience: float | None = None) -> bool:
    """Returns whether the holder of a lock lives.

    Args:
        root: The run folder.
        process: The holder of its lock.
        patience: Seconds to wait for a sign of life of a holder on another machine, where its last one is old;
            ``None`` to touch nothing and believe this machine's clock.
    """
    if process.place == _place():
        return _born(process.pid) == process.born != ""
    before = _beat(root)
    if before is None or patience is None:
        return before is not None and time.time() - before < SILENCE
    if _now(root, before) - before < SILENCE:
        return True
    time.sleep(patience)
    return _beat(root) != before


@contextmanager
def locked(root: Path) -> Iterator[Lock]:
    """Keeps other processes out of a run folder inside the block.

    Raises:
        StoreError: If another process works there, or the folder cannot be written to.
    """
    lock = Lock(root)
    lock.take()
    try:
        yield lock
    finally:
        lock.release()


class Lock:
    """The lock of one run folder; use `locked`."""

    def __init__(self, root: Path) -> None:
        self.root, self.path, self.holder = root, root / NAME, this_process()
        self._stopped = threading.Event()
        self._beats = threading.Thread(target=self._live, name="evalsuite-lock", daemon=True)

    def take(self) -> None:
        """Takes the lock, from a dead process if need be.

        Raises:
            StoreError: If another process has it, or the folder cannot be written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not self._made():
                self._take_over()
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._beats.start()

    def release(self) -> None:
        """Removes the lock, if this process still holds it."""
        self._stopped.set()
        if self._beats.is_alive():
            self._beats.join()
        if self._is_ours():
            with contextlib.suppress(OSError):
                self.path.unlink()

    def check(self) -> None:
        """Checks that this process still holds the lock: a machine that slept may have lost it, or it was removed.

        Raises:
            StoreError: If it is not.
        """
        if not self._is_ours():
            other = holder(self.root)
            if other is None and not self.path.exists():
                raise StoreError(
                    f"{self.path} is gone: the run folder, or its lock, was removed while this process worked there; "
                    "start the same run again"
                )
            raise StoreError(
                f"{self.root} was taken over by {other or 'a process that has ended since'} while this process slept; "
                "start the same run again when that one has ended"
            )

    def _made(self) -> bool:
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(self.holder), file)
        return True

    def _take_over(self) -> None:
        """Replaces a dead holder, one taker at a time: a second one could remove the lock of the first."""
        with _alone(self.path.with_name(f"{NAME}.takeover")):
            process = holder(self.root) or _later(self.root)
            if process is not None and alive(self.root, process, patience=2 * BEAT):
                raise StoreError(
                    f"{process} works in {self.root}; wait until it has ended, or name another folder with --out"
                )
            log.info(
                "%s left %s without ending: this run goes on from there", process or "a process", self.root
            )
            self.path.unlink(missing_ok=True)
            if not self._made():
                raise StoreError(f"another process works in {self.root}; name another folder with --out")

    def _is_ours(self) -> bool:
        process = holder(self.root)
        return process is not None and process.token == self.holder.token

    def _live(self) -> None:
        while not self._stopped.wait(BEAT):
            if self._is_ours():
                with contextlib.suppress(OSError):
                    os.utime(self.path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lets one process at a time into the block; the system releases the file when a process dies inside."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise StoreError(
                f"another process is just taking {path.parent} over; try again in a minute"
            ) from None
        except OSError:
            log.info("%s has no locks of the system", path.parent)
        if _same(path, handle):
            break
        os.close(handle)  # the process that was inside has removed it
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _same(path: Path, handle: int) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _later(root: Path) -> Holder | None:
    """The holder of a lock that is just being written."""
    time.sleep(1.0)
    return holder(root)


def _beat(root: Path) -> float | None:
    """When the lock was last touched, by the clock of the file system."""
    try:
        return (root / NAME).stat().st_mtime
    except OSError:
        return None


def _now(root: Path, otherwise: float) -> float:
    """The time by the clock of the file system; `otherwise` where it cannot be had."""
    probe = root / f".now.{uuid.uuid4().hex[:8]}"
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    except OSError:
        return otherwise
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _place() -> str:
    """Boot and process namespace, where the system tells them; else the machine's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  # a name that is no path
    except OSError:
        return socket.gethostname()


def _born(pid: int) -> str:
    """When a process started, in ticks since boot; empty if it is gone, a zombie included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self").exists() else _exists(pid)
    return "" if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> str:
    """Whether a process exists, on systems without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "there"
