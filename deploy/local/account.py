"""The account that a server runs under when root starts it: PostgreSQL refuses to be root."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ELSEWHERE = Path("/var/lib/outbox-local")


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int

    def reaches(self, path: Path) -> bool:
        """Whether this account may pass through (a directory) or execute (a file) `path`."""
        probe = subprocess.run(
            ["test", "-x", str(path)], user=self.uid, group=self.gid, extra_groups=[], cwd="/", check=False
        )
        return probe.returncode == 0

    def own(self, path: Path) -> None:
        os.chown(path, self.uid, self.gid)


def unprivileged_account() -> Account | None:
    """None unless we are root; else `postgres` where it exists, else `nobody`."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise LookupError("neither `postgres` nor `nobody` is an account here, and PostgreSQL refuses to run as root")


def reachable_directory(wanted: Path, account: Account | None) -> Path:
    """`wanted`, made if missing; a link to a directory elsewhere when `account` could not reach it where it lies.

    When the link was deleted, what it pointed to is deleted too: the link is all that anyone sees of the data.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if wanted.is_dir():
        return wanted
    wanted.unlink(missing_ok=True)
    if account is None or account.reaches(wanted.parent):
        wanted.mkdir()
    else:
        wanted.symlink_to(_emptied(ELSEWHERE / _fingerprint(wanted)), target_is_directory=True)
    return wanted


def delete_directory(path: Path) -> None:
    """Deletes a directory and, through a link, what it points to."""
    if path.is_symlink():
        shutil.rmtree(path.resolve(), ignore_errors=True)
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def reachable_copy(installation: Path, account: Account | None) -> Path:
    """`installation` itself, or a copy of it where `account` can execute from it."""
    if account is None or account.reaches(installation / "bin" / "postgres"):
        return installation
    version = int((installation / "bin" / "postgres").stat().st_mtime)
    copy = ELSEWHERE / f"postgresql-{_fingerprint(installation)}-{version}"
    package = installation.parent
    copied = copy / package.name / installation.name
    if not copied.exists():
        shutil.rmtree(copy, ignore_errors=True)
        draft = _emptied(copy.with_suffix(f".{os.getpid()}"))
        shutil.copytree(installation, draft / package.name / installation.name, symlinks=True)
        # A wheel's programs look for its libraries in a directory beside the package.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        draft.replace(copy)
    return copied


def _emptied(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    for made in (path, ELSEWHERE):
        made.chmod(0o755)  # whatever the umask
    return path


def _fingerprint(path: Path) -> str:
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
