"""Workshops: a relay and a worker in the test's own process, on real servers."""

from workshop import make_workshop, vhost_url, workshop

__all__ = ["make_workshop", "vhost_url", "workshop"]
