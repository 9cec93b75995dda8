"""What the tests of the metrics see, and a worker to count for."""

from __future__ import annotations

from workshop import make_workshop, open_workshop, shop, vhost_url

__all__ = ["make_workshop", "open_workshop", "shop", "vhost_url"]
