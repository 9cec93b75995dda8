"""`python -m outbox.cli`, where the command itself is not on the path."""

from outbox.cli import main

main()
