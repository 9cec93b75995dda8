"""docs/tutorial.md, done as it says, on a real PostgreSQL and a real RabbitMQ."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from shell import follow, open_shell

from deploy.local.ports import free_ports


@pytest.mark.system
@pytest.mark.skipif(not shutil.which("curl"), reason="wants curl")
def test_who_does_what_the_tutorial_says_sees_what_it_shows(
    empty_database_url: str, amqp_url: str, queue_prefix: str, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_URL": empty_database_url,
        "RABBITMQ_URL": amqp_url,
        "OUTBOX_QUEUE_PREFIX": queue_prefix,
        "OUTBOX_LEASE": "3",  # the reader has more time
    }
    with open_shell(tmp_path, env) as shell:
        follow("tutorial", shell, tmp_path, instead={"8000": str(port)})
