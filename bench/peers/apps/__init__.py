"""The task, and how it is enqueued, on each of the compared systems: what each module offers is in `bench.peers.drive`."""
