"""A workshop at work, a scene for the command line: what the attackers of these tests meet."""

from workshop import make_workshop, open_workshop, shop, vhost_url, workshop

from tests.cli.conftest import cli, scene

__all__ = ["cli", "make_workshop", "open_workshop", "scene", "shop", "vhost_url", "workshop"]
