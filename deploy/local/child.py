"""A child process that is known by its pid file and can be ended for certain, also by a later run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from deploy.local.account import Account

MARK = "OUTBOX_LOCAL_PID_FILE"


@dataclass(frozen=True)
class Command:
    """What to run: words, whole environment, and another account when root must not run it."""

    words: Sequence[str]
    environment: Mapping[str, str]
    account: Account | None = None
    directory: Path | None = None


class Child:
    """One process at a time under one name: `<pids>/<name>.pid`, output in `<logs>/<name>.log`.

    It runs in a session of its own, so that Ctrl-C in the terminal reaches the supervisor alone,
    which ends its children in order. A pid file is believed only if the process carries our mark.
    """

    def __init__(self, name: str, *, pids: Path, logs: Path, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        self.name = name
        self.pid_file = pids / f"{name}.pid"
        self.log = logs / f"{name}.log"
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the last process that ended; negative for a signal."""
        return self._process.poll() if self._process else None

    def spawn(self, command: Command) -> None:
        """Starts the process; whatever an earlier run left behind under this name is ended first."""
        self.end_orphan()
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        account = command.account
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(command.words),
                env={**command.environment, MARK: str(self.pid_file)},
                cwd=command.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        write_atomically(self.pid_file, f"{self._process.pid}\n")

    def terminate(self) -> None:
        """Asks it to end; returns at once."""
        if self._process and self.running:
            with suppress(ProcessLookupError):
                self._process.send_signal(self._stop_signal)

    def kill(self) -> None:
        """SIGKILL, and back only when the process is gone. The pid file stays, as after a real crash."""
        if self._process:
            _kill_group(self._process.pid)
            self._process.wait()

    def stop(self, *, within: timedelta = timedelta(seconds=15)) -> None:
        """Asks it to end, kills what has not ended in time, and leaves no pid file."""
        if not self._process:
            return
        self.terminate()
        try:
            self._process.wait(within.total_seconds())
        except subprocess.TimeoutExpired:
            pass
        self.kill()
        self.pid_file.unlink(missing_ok=True)
        self._process = None

    def terminate_orphan(self) -> int | None:
        """Asks the process that the pid file names to end, if it is one of ours and not our own child: its pid."""
        pid = _read_pid(self.pid_file)
        if pid is None or pid == self.pid or not self._is_ours(pid):
            return None
        _signal(pid, self._stop_signal)
        return pid

    def end_orphan(self, *, within: timedelta = timedelta(seconds=15)) -> None:
        """Ends that process, by force if need be, and returns when it is gone."""
        pid = self.terminate_orphan()
        if pid is None:
            return
        if not _gone(pid, within=within):
            _kill_group(pid)
            _gone(pid, within=timedelta(seconds=5))

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _is_ours(self, pid: int) -> bool:
        return f"{MARK}={self.pid_file}" in _environment_of(pid)


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """A reader sees the old content or the new one, never a part. The directory is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=mode)
    draft.write_text(text)
    draft.replace(path)


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _environment_of(pid: int) -> str:
    """Its environment in some printed form; empty for a process that is dead, a zombie, or not ours to see."""
    if Path("/proc/self/environ").exists():
        try:
            return Path(f"/proc/{pid}/environ").read_text(errors="replace")
        except OSError:
            return ""
    return subprocess.run(["ps", "eww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout


def _gone(pid: int, *, within: timedelta) -> bool:
    deadline = time.monotonic() + within.total_seconds()
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    """Whether it still holds its ports and files: a zombie does not."""
    if Path("/proc/self/stat").exists():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
        except OSError:
            return False
    else:
        told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
        state = told.stdout.strip()[:1]
    return state not in ("", "Z", "X")


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
