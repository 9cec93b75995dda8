"""The private servers: what the system tests lean on when they kill things."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pika
import psycopg
import pytest
from awaiting import await_that

from deploy.local.child import Child, Command, _environment_of, is_alive
from deploy.local.place import ROOT, PlaceTaken, take, take_free_slot
from deploy.local.ports import claim, free_ports
from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.server import ServerFailed


def test_postgres_keeps_port_password_and_committed_rows_through_sigkill(own_postgres: Postgres) -> None:
    url = own_postgres.url
    with psycopg.connect(url) as connection:
        connection.execute("create table kept as select 1 as one")
    own_postgres.kill()
    assert not own_postgres.running
    own_postgres.start()
    assert own_postgres.url == url
    with psycopg.connect(url) as connection:
        assert connection.execute("select one from kept").fetchone() == (1,)
        connection.execute("drop table kept")


def test_postgres_is_durable_as_in_production(tmp_path: Path) -> None:
    """As `make up` and `make bench` start it. That of the tests does all but sync."""
    postgres = Postgres(tmp_path / "postgres", pids=tmp_path, logs=tmp_path)
    try:
        postgres.start()
        with psycopg.connect(postgres.url) as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                assert connection.execute(f"show {setting}").fetchone() == ("on",)
    finally:
        postgres.stop()


def test_postgres_of_the_tests_writes_a_commit_before_it_answers(own_postgres: Postgres) -> None:
    with psycopg.connect(own_postgres.url) as connection:
        for setting in ("synchronous_commit", "full_page_writes"):
            assert connection.execute(f"show {setting}").fetchone() == ("on",)


def test_postgres_wants_the_password_even_on_loopback(own_postgres: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(own_postgres.url, password="a guess", connect_timeout=20)


def test_rabbitmq_keeps_port_and_durable_queues_through_sigkill(own_rabbitmq: RabbitMQ) -> None:
    url, name = own_rabbitmq.url, "kept_through_sigkill"
    _declare_quorum_queue(url, name)
    own_rabbitmq.kill()
    own_rabbitmq.start()
    assert own_rabbitmq.url == url
    assert name in own_rabbitmq.ctl("list_queues", "name").split()


def test_a_wiped_rabbitmq_comes_back_empty_at_the_same_url(own_rabbitmq: RabbitMQ) -> None:
    url, name = own_rabbitmq.url, "gone_with_the_disk"
    _declare_quorum_queue(url, name)
    with pytest.raises(ServerFailed):
        own_rabbitmq.wipe()
    own_rabbitmq.kill()
    own_rabbitmq.wipe()
    assert not own_rabbitmq.directory.exists()
    own_rabbitmq.start()
    assert own_rabbitmq.url == url
    assert name not in own_rabbitmq.ctl("list_queues", "name").split()


def test_a_vhost_is_empty_and_usable(amqp_url: str) -> None:
    _declare_quorum_queue(amqp_url, "first")


def test_ports_lie_outside_the_range_for_outgoing_connections() -> None:
    first, last = (int(word) for word in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert not [port for port in ports if first <= port <= last]


def test_a_port_is_handed_to_one_process_only_though_nobody_listens_yet() -> None:
    (mine,) = free_ports(1)
    ask = f"from deploy.local.ports import claim; print(claim({mine}))"
    assert subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"
    other = subprocess.run(
        [sys.executable, "-c", "from deploy.local.ports import *; print(*free_ports(1))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert claim(int(other.stdout)), "a claim ends with its process"


def test_a_process_is_not_handed_the_same_port_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.ports._outside_ephemeral", lambda: [20001, 20002, 20003])
    monkeypatch.setattr("deploy.local.ports.claim", lambda port: True)
    monkeypatch.setattr("deploy.local.ports._chosen", set())
    assert set(free_ports(2)) | set(free_ports(1)) == {20001, 20002, 20003}
    with pytest.raises(OSError, match="no 1 free ports"):
        free_ports(1)


def test_a_place_has_one_owner_and_the_next_run_gets_another_slot(tmp_path: Path) -> None:
    place = take_free_slot(tmp_path)
    with pytest.raises(PlaceTaken, match=str(os.getpid())):
        take(place.directory)
    assert take_free_slot(tmp_path).directory != place.directory
    place.leave()
    assert take_free_slot(tmp_path).directory == place.directory


def test_the_orphan_of_a_killed_run_is_ended_by_pid_file(tmp_path: Path) -> None:
    orphan = _leave_an_orphan(tmp_path)
    successor = Child("sleeper", pids=tmp_path, logs=tmp_path)
    successor.end_orphan()
    assert not is_alive(orphan)


def test_a_stranger_whose_pid_stands_in_an_old_pid_file_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        child = Child("sleeper", pids=tmp_path, logs=tmp_path)
        child.pid_file.write_text(str(stranger.pid))
        child.end_orphan()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_child_that_ignores_sigterm_is_killed_and_leaves_no_pid_file(tmp_path: Path) -> None:
    child = Child("deaf", pids=tmp_path, logs=tmp_path)
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    child.spawn(Command([sys.executable, "-c", script], dict(os.environ)))
    await_that(lambda: "deaf" in child.last_words())
    child.stop(within=timedelta(seconds=0.2))
    assert not child.running
    assert not child.pid_file.exists()


def _declare_quorum_queue(url: str, name: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.channel().queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    connection.close()


def _leave_an_orphan(directory: Path) -> int:
    """The pid of a child whose parent was killed with SIGKILL."""
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from deploy.local.child import Child, Command, is_alive
        child = Child("sleeper", pids=Path({str(directory)!r}), logs=Path({str(directory)!r}))
        child.spawn(Command(["sleep", "60"], dict(os.environ)))
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    parent = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    assert parent.returncode == -signal.SIGKILL
    orphan = int((directory / "sleeper.pid").read_text())
    await_that(lambda: _environment_of(orphan))  # the kernel shows none for a moment after exec
    assert is_alive(orphan)
    return orphan
