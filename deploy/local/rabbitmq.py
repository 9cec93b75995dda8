"""A private RabbitMQ node on loopback, from the installed RabbitMQ."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pika
import pika.exceptions

from deploy.local.account import delete_directory
from deploy.local.child import Child, Command, write_atomically
from deploy.local.ports import claim, free_ports, is_listening
from deploy.local.server import ServerFailed, await_ready, remember, remembered

USER = "outbox"
# Debian's and Red Hat's /usr/sbin/rabbitmq-server changes to the account of the packaged service: the script that it
# calls comes first. Everywhere else the script on the PATH is that inner one.
INNER_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
OTHER_PLACES = ("/opt/homebrew/sbin", "/usr/local/sbin", "/opt/rabbitmq/sbin")
NOT_FOUND = (
    "no rabbitmq-server found. Install one (Debian, Ubuntu: apt-get install rabbitmq-server; "
    "macOS: brew install rabbitmq), or set RABBITMQ_URL to a RabbitMQ that runs."
)


class RabbitMQ:
    """start, stop, kill, wipe; ports, node name, cookie and password outlive a wipe within one object,
    so that a node with an empty disk comes back at the same URL."""

    def __init__(self, directory: Path, *, pids: Path, logs: Path) -> None:
        self.directory = directory
        self._node = Child("rabbitmq", pids=pids, logs=logs)
        self._epmd = Child("epmd", pids=pids, logs=logs)
        self._facts: dict[str, str | int] = {}

    @property
    def url(self) -> str:
        """Of the administrator, in the vhost `/`. Known once it was launched."""
        return self.vhost_url("/")

    def vhost_url(self, vhost: str) -> str:
        path = "%2F" if vhost == "/" else vhost
        return f"amqp://{USER}:{self._facts['password']}@127.0.0.1:{self.port}/{path}"

    @property
    def pid(self) -> int | None:
        return self._node.pid

    @property
    def port(self) -> int:
        return int(self._facts["port"])

    @property
    def running(self) -> bool:
        return self._node.running

    def start(self, *, within: timedelta = timedelta(seconds=90)) -> None:
        if not self.running:
            self.launch()
        await_ready(self._node, self.ready, self.launch, within=within)

    def launch(self) -> None:
        """Starts the node and returns; its directory is made again if somebody deleted it."""
        self.end_orphans()
        self._prepare()
        environment = self._environment()
        if not self._epmd.running:
            epmd = [_find_epmd(), "-port", str(self._facts["epmd_port"]), "-address", "127.0.0.1"]
            self._epmd.spawn(Command(epmd, environment))
        self._node.spawn(Command([str(find_script("rabbitmq-server"))], environment, directory=self.directory))

    def ready(self) -> bool:
        """Whether a client can log in: the listeners open before the node has finished its boot."""
        if not is_listening(self.port):
            return False
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True

    def stop(self) -> None:
        self._node.stop()
        self._epmd.stop()

    def kill(self) -> None:
        """SIGKILL to the node."""
        self._node.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Deletes every queue, message, user and vhost with the directory. The node must be down."""
        if self.running:
            raise ServerFailed("RabbitMQ is running: stop or kill it before its data is deleted")
        delete_directory(self.directory)

    def intact(self) -> bool:
        """False once somebody deleted the directory under the running node: it must be killed and started again."""
        return (self.directory / "server.json").exists()

    def ctl(self, *words: str) -> str:
        """What `rabbitmqctl WORDS` prints. ServerFailed with its own words when it fails. About 0.3 s."""
        command = [str(find_script("rabbitmqctl")), "--quiet", *words]
        told = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if told.returncode:
            raise ServerFailed(f"rabbitmqctl {' '.join(words)}: {(told.stderr or told.stdout).strip()}")
        return told.stdout

    def create_vhost(self, name: str) -> str:
        """The URL of a new, empty vhost."""
        # One call instead of `add_vhost` and `set_permissions`: half the time. The strings hold no quotes.
        self.ctl(
            "eval",
            f'ok = rabbit_vhost:add(<<"{name}">>, <<"{USER}">>), ok = rabbit_auth_backend_internal:set_permissions('
            f'<<"{USER}">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"{USER}">>).',
        )
        return self.vhost_url(name)

    def end_orphans(self) -> None:
        """Ends what an earlier, killed run left behind here."""
        for child in (self._node, self._epmd):
            child.end_orphan()

    def _prepare(self) -> None:
        """Directory, cookie and configuration are there afterwards, whatever was deleted in between."""
        self.directory.mkdir(parents=True, exist_ok=True)
        facts_file = self.directory / "server.json"
        if not self._facts:
            self._facts = _with_free_ports(remembered(facts_file) or _new_facts())
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            write_atomically(cookie, str(self._facts["cookie"]), mode=0o600)
        write_atomically(self.directory / "rabbitmq.conf", self._configuration(), mode=0o600)
        write_atomically(self.directory / "advanced.config", "[].\n")
        write_atomically(self.directory / "enabled_plugins", "[].\n")
        (self.directory / "conf.d").mkdir(exist_ok=True)
        remember(facts_file, self._facts)

    def _configuration(self) -> str:
        return (
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"default_user = {USER}\n"
            f"default_pass = {self._facts['password']}\n"
            "disk_free_limit.absolute = 50MB\n"
        )

    def _environment(self) -> dict[str, str]:
        """Ours, without what belongs to an installed broker, and with a place of its own for each thing it writes."""
        inherited = {name: value for name, value in os.environ.items() if not re.match(r"RABBITMQ_|ERL_", name)}
        directory = self.directory
        return inherited | {
            "HOME": str(directory),  # where Erlang looks for its cookie
            "RABBITMQ_NODENAME": str(self._facts["node"]),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(directory / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_DIST_PORT": str(self._facts["dist_port"]),
            "ERL_EPMD_PORT": str(self._facts["epmd_port"]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP": str(directory / "erl_crash.dump"),
            # The script then becomes the node itself, so that its pid is the node's.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none -start_epmd false "
            "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CTL_ERL_ARGS": "-start_epmd false",
        }


def find_script(name: str) -> Path:
    """The script `name` of the installed RabbitMQ that runs as whoever calls it."""
    on_path = shutil.which(name)
    candidates = [INNER_SCRIPT.with_name(name), *([Path(on_path)] if on_path else [])]
    candidates += [Path(place) / name for place in OTHER_PLACES]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    raise ServerFailed(NOT_FOUND)


def _find_epmd() -> str:
    """Erlang's port mapper: on the PATH, or beside `erl`."""
    on_path = shutil.which("epmd")
    if on_path:
        return on_path
    erl = shutil.which("erl", path=f"{os.environ.get('PATH', '')}:/opt/homebrew/bin:/usr/local/bin")
    if erl and (beside := Path(erl).resolve().parent / "epmd").exists():
        return str(beside)
    raise ServerFailed("RabbitMQ is installed, but Erlang's epmd is not on the PATH")


def _new_facts() -> dict[str, str | int]:
    return {
        "node": f"outbox_{secrets.token_hex(4)}@localhost",
        "cookie": secrets.token_hex(16),
        "password": secrets.token_hex(16),
        "port": 0,
    }


def _with_free_ports(facts: dict[str, str | int]) -> dict[str, str | int]:
    """The remembered ports; all of them new when something else listens on one of them now."""
    names = ("port", "dist_port", "epmd_port")
    if facts["port"] and all(claim(int(facts[name])) for name in names):
        return facts
    return facts | dict(zip(names, free_ports(len(names)), strict=True))
