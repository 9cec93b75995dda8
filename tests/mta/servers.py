"""Postfix, OpenSMTPD and Exim as Debian packages them, each on a free loopback port, with its configuration, its queue
and the one maildir that it delivers to under a directory of the test's own. They change users: root starts them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tests.awaiting import await_that

__all__ = ["BOXES", "GONE", "MOST_OCTETS", "Mta", "missing", "running"]

MOST_OCTETS = 200_000
#: Who has a mailbox, with or without `+` and more; the last one where the server speaks SMTPUTF8.
BOXES = ("ada@example.org", "bounces@example.com", "жук@example.org")
#: What is for this domain is taken, and then turns out to be for nobody.
GONE = "gone.example"

_PROGRAMS = {"postfix": "postconf", "opensmtpd": "smtpd", "exim": "exim4"}


@dataclass
class Mta:
    """A server that runs; all that it takes arrives in `maildir`."""

    name: str
    port: int
    maildir: Path
    log: Path
    #: OpenSMTPD has no SMTPUTF8; before 7.0 its TLS fails with OpenSSL 3 (its issue 1171), as in Debian 12.
    speaks_utf8: bool
    speaks_tls: bool

    def delivered(self) -> list[bytes]:
        """Each mail with the headers that the server put before it, and the line ends of a file."""
        return [file.read_bytes() for file in sorted(self.maildir.glob("new/*"))]

    def await_mail(self, words: bytes) -> bytes:
        """The one mail that holds these words, once it arrived."""

        def found() -> list[bytes]:
            return [mail for mail in self.delivered() if words in mail]

        (mail,) = await_that(found, timedelta(seconds=30))
        return mail


def missing(name: str) -> str | None:
    """Why this server cannot be started here, or None."""
    if shutil.which(_PROGRAMS[name], path=_PATH) is None:
        return f"{name} is not installed: apt-get install {'exim4-daemon-light' if name == 'exim' else name}"
    if os.geteuid() != 0:
        return f"{name} changes users, which only root may"
    return None


@contextmanager
def running(name: str, directory: Path, certificate: Path) -> Iterator[Mta]:
    """`certificate`: a PEM file with key and chain for 127.0.0.1."""
    start = {"postfix": _postfix, "opensmtpd": _opensmtpd, "exim": _exim}[name]
    maildir = directory / "mail" / "all"
    for sub in ("new", "cur", "tmp"):
        (maildir / sub).mkdir(parents=True)
    for path in (maildir, *maildir.iterdir()):
        shutil.chown(path, "nobody", "nogroup")
    old = name == "opensmtpd" and "OpenSMTPD 6." in _told("smtpd", "-h")
    mta = Mta(
        name, _free_port(), maildir, directory / "log", speaks_utf8=name != "opensmtpd", speaks_tls=not old
    )  # fmt: skip
    command, environment = start(mta, directory, certificate)
    with (directory / "out").open("wb") as out:
        process = subprocess.Popen(
            command, env={**os.environ, "PATH": _PATH, **environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        await_that(lambda: _greets(mta.port) or process.poll() is not None)
        assert process.poll() is None, f"{name} did not start"
        yield mta
    finally:
        _end(process)
        for told in {directory / "out", mta.log, *directory.glob("logs/*log")}:
            if told.is_file():
                print(f"--- {name}: {told.name}\n{told.read_text(errors='replace')[-4000:]}")


def _postfix(mta: Mta, directory: Path, certificate: Path) -> tuple[list[str], dict[str, str]]:
    queue = directory / "queue"
    owned = "active bounce corrupt defer deferred flush hold incoming private saved trace"
    for sub in (*owned.split(), "maildrop", "public", "pid"):
        (queue / sub).mkdir(parents=True, mode=0o755)
    (directory / "data").mkdir()
    for path in (directory / "data", *(queue / sub for sub in (*owned.split(), "maildrop", "public"))):
        shutil.chown(path, "postfix")
    (directory / "boxes").write_text("".join(f"{box} all/\n" for box in BOXES))
    programs = _told("postconf", "-d", "-h", "daemon_directory")
    (directory / "main.cf").write_text(f"""
compatibility_level = 3.6
daemon_directory = {programs}
queue_directory = {queue}
data_directory = {directory}/data
maillog_file = {mta.log}
maillog_file_prefixes = {directory}
mail_owner = postfix
setgid_group = postdrop
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
myhostname = mta.example.org
mydestination =
mynetworks = 127.0.0.0/8
message_size_limit = {MOST_OCTETS}
smtputf8_enable = yes
smtpd_tls_security_level = may
smtpd_tls_chain_files = {certificate}
recipient_delimiter = +
relay_domains = {GONE}
transport_maps = inline:{{{GONE}=gone:}}
virtual_mailbox_domains = example.org example.com
virtual_mailbox_base = {directory}/mail
virtual_mailbox_maps = texthash:{directory}/boxes
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
""")
    (directory / "master.cf").write_text(f"""
127.0.0.1:{mta.port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
gone unix - n n - - pipe user=nobody argv=/bin/sh -c {{exit 67}}
""")
    return [f"{programs}/master", "-c", str(directory), "-d"], {"MAIL_CONFIG": str(directory)}


def _opensmtpd(mta: Mta, directory: Path, certificate: Path) -> tuple[list[str], dict[str, str]]:
    (directory / "smtpd.conf").write_text(
        f"""
pki "test" cert "{certificate}"
pki "test" key "{certificate}"
smtp max-message-size {MOST_OCTETS}
table boxes {{ {", ".join(f'"{box}" = "nobody"' for box in BOXES if box.isascii())} }}
listen on 127.0.0.1 port {mta.port} tls pki "test" hostname mta.example.org
action "gone" mda "exit 67" virtual {{ "@{GONE}" = "nobody" }}
action "keep" maildir "{mta.maildir}" virtual <boxes>
match from any for domain {{ "example.org", "example.com" }} action "keep"
match from any for domain "{GONE}" action "gone"
"""
    )
    for sub in ("spool", "run"):
        (directory / sub).mkdir(mode=0o711)
    # Where it keeps its queue and its socket is built in: a view of the file system of its own has them here.
    view = f"""
mount --bind {directory}/spool /var/spool
mount --bind {directory}/run /run
mkdir -p -m 711 /var/spool/smtpd
exec smtpd -d -f {directory}/smtpd.conf
"""
    return ["unshare", "--mount", "sh", "-e", "-c", view], {}


def _exim(mta: Mta, directory: Path, certificate: Path) -> tuple[list[str], dict[str, str]]:
    # With a configuration of its own it is not root any more when it delivers.
    for path in (directory / "spool", directory / "logs", mta.maildir, *mta.maildir.iterdir()):
        path.mkdir(exist_ok=True)
        shutil.chown(path, "Debian-exim", "Debian-exim")
    readable = directory / "certificate.pem"
    readable.write_bytes(certificate.read_bytes())
    readable.chmod(0o640)
    shutil.chown(readable, "root", "Debian-exim")
    locals_ = ":".join(box.partition("@")[0] for box in BOXES)
    (directory / "exim.conf").write_text(f"""
spool_directory = {directory}/spool
log_file_path = {directory}/logs/%slog
pid_file_path = {directory}/pid
primary_hostname = mta.example.org
message_size_limit = {MOST_OCTETS}
tls_advertise_hosts = *
tls_certificate = {readable}
tls_privatekey = {readable}
smtputf8_advertise_hosts = *
deliver_drop_privilege = true
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt = check_rcpt
acl_smtp_data = check_data

begin acl
check_rcpt:
  require verify = recipient
  accept
check_data:
  accept

begin routers
boxes:
  driver = accept
  domains = example.org : example.com
  local_parts = {locals_}
  local_part_suffix = +*
  local_part_suffix_optional
  transport = keep
gone:
  driver = accept
  domains = {GONE}
  transport = gone

begin transports
gone:
  driver = pipe
  command = /bin/sh -c "exit 67"
keep:
  driver = appendfile
  maildir_format
  directory = {mta.maildir}
""")
    return ["exim4", "-C", str(directory / "exim.conf"), "-bdf", "-oX", f"127.0.0.1.{mta.port}"], {}


_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def _told(*command: str) -> str:
    told = subprocess.run(command, env={**os.environ, "PATH": _PATH}, capture_output=True, text=True)
    return (told.stdout or told.stderr).strip()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _greets(port: int) -> bool:
    try:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
            return connection.recv(3) == b"220"
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server and all that it started: they are a session of their own."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)
