"""A stock worker process, with an actor that takes it along. Arguments: the broker's URL, the queue, a file for traces."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import CurrentMessage, Retries

url, queue, traces = sys.argv[1:]
broker = RabbitmqBroker(url=url, confirm_delivery=True, middleware=[Retries(max_retries=1), CurrentMessage()])


@dramatiq.actor(broker=broker, queue_name=queue)
def kill() -> None:
    message = CurrentMessage.get_current_message()
    assert message is not None
    with Path(traces).open("a") as file:
        print(message.message_id, message.options.get("retries", 0), file=file, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    dramatiq.Worker(broker, worker_threads=1).start()
    threading.Event().wait(30)
