"""`python -m service api` serves; `python -m service keys create|list|revoke` makes and ends API keys."""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn
from uuid import UUID

import typer
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from actors.secrets import SecretKeyMissing
from outbox.logs import configure
from service import keys
from service.database import engine_for
from service.settings import Settings, variables
from service.tables import ApiKey

_VARIABLES = "\b\nEnvironment variables:\n" + "\n".join(
    f"  {name:<26} {meaning}{f' [{default}]' if default else ''}" for name, meaning, default in variables()
)

_EXITS = (
    "Exit codes: 0 done, or stopped by SIGTERM or SIGINT; 1 it could not be done (no such key, the port is taken); "
    "2 wrong usage, or a setting that makes no sense; 3 the database cannot be used."
)

cli = typer.Typer(
    help="The API of the service.",
    epilog=_EXITS,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
keys_cli = typer.Typer(
    help="API keys: shown once, kept as digests.", epilog=_EXITS, no_args_is_help=True, rich_markup_mode=None
)
cli.add_typer(keys_cli, name="keys")

#: Open files that are enough for any number of callers that one process can serve.
FILES = 65_536

Json = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]


@cli.command(epilog=_VARIABLES)
def api() -> None:
    """Serve the API until SIGTERM or SIGINT, finish what runs, exit 0."""
    settings = _settings()
    import uvicorn

    from service.app import app, check_surroundings
    from service.protocol import ProblemProtocol

    with _told_plainly():
        check_surroundings()
    configure(settings.log_format, settings.log_level)
    _allow_connections()
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=ProblemProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.shutdown_grace.total_seconds()),
        )
    )
    # Before uvicorn's own handlers stand, and after: when it has stopped, it raises the signal that stopped it again.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run()
    raise typer.Exit(0 if server.started else 1)


@keys_cli.command("create", epilog=_VARIABLES)
def create_key(
    name: Annotated[str, typer.Option(help="Who will use it; stands in the audit.")],
    role: Annotated[
        keys.Role, typer.Option(help="reader sees; writer also creates; operator also acts; admin: everything.")
    ] = "writer",
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once."""
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise typer.BadParameter("a name is one line of 1 to 100 characters", param_hint="--name")
    with _session() as session, session.begin():
        new = keys.create(session, name=name, role=role)
    if as_json:
        _print_json({"id": str(new.id), "key": new.secret, "name": name, "role": role})
    else:
        typer.echo(new.secret)
        typer.echo(f"Key {new.id} of {name} ({role}). It is not stored: keep it now.", err=True)


@keys_cli.command("list", epilog=_VARIABLES)
def list_keys(as_json: Json = False) -> None:
    """All keys, the revoked ones too; never the keys themselves."""
    with _session() as session:
        rows = [_row(key) for key in keys.every(session)]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        ended = f"revoked {row['revoked_at']}" if row["revoked_at"] else "in force"
        typer.echo(f"{row['id']}  {row['hint']}…  {row['role']:<6}  {ended:<34}  {row['name']}")


@keys_cli.command("revoke", epilog=_VARIABLES)
def revoke_key(key_id: Annotated[UUID, typer.Argument(help="As `keys list` shows it.")], as_json: Json = False) -> None:
    """End a key: from now on it is refused. Exit code 1 if there is no such key in force."""
    with _session() as session, session.begin():
        found = keys.revoke(session, key_id)
    if not found:
        typer.echo(f"No key in force has the id {key_id}.", err=True)
        raise typer.Exit(1)
    if as_json:
        _print_json({"id": str(key_id), "revoked": True})
    else:
        typer.echo(f"Key {key_id} is revoked.", err=True)


@cli.command("dashboard-link", epilog=_VARIABLES)
def dashboard_link(
    name: Annotated[str, typer.Option(help="Who will use it; stands in the audit.")],
    role: Annotated[keys.Role, typer.Option(help="reader: sees; operator: also acts; admin: everything.")] = "operator",
    url: Annotated[str, typer.Option(help="Where the API is reached.")] = "",
) -> None:
    """Print a link that signs one browser in to the dashboard, once, within ten minutes."""
    from service.browsers import new_link
    from service.dashboard import PATH

    settings = _settings()
    with _session() as session, session.begin():
        link = new_link(session, name=name, role=role)
    typer.echo(f"{url.rstrip('/') or f'http://{settings.host}:{settings.port}'}{PATH}/sign-in?link={link}")


def _settings() -> Settings:
    with _told_plainly():
        return Settings()


@contextmanager
def _told_plainly() -> Iterator[None]:
    """A setting that makes no sense ends the program with its name and exit code 2, without its value."""
    try:
        yield
    except ValidationError as error:
        for each in error.errors(include_input=False):
            typer.echo(f"{'.'.join(map(str, each['loc']))}: {each['msg']}", err=True)
        raise typer.Exit(2) from None
    except (ValueError, SecretKeyMissing) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _allow_connections() -> None:
    """Each connection is an open file, of which a process has 1,024 in many places until it asks for what it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _session() -> Session:
    return Session(engine_for(_settings()))


def _row(key: ApiKey) -> dict[str, str | None]:
    return {
        "id": str(key.id),
        "hint": key.hint,
        "role": key.role,
        "name": key.name,
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }


def _print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=2))


def main() -> None:
    try:
        cli()
    except OperationalError as error:
        _end(f"The database cannot be used: {error.orig}")
    except ProgrammingError as error:  # no table, a column that is not there yet, no right to read them
        why = str(error.orig).partition("\n")[0]
        _end(f"The database cannot be used: {why}. If it has not been migrated, `outbox db upgrade` does it.")


def _end(why: str) -> NoReturn:
    typer.echo(why, err=True)
    sys.exit(3)


if __name__ == "__main__":
    main()
