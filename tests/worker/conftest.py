"""Workshops: a relay and a worker in the test's own process, on real servers."""

from workshop import make_workshop, open_workshop, shop, vhost_url, workshop

__all__ = ["make_workshop", "open_workshop", "shop", "vhost_url", "workshop"]
