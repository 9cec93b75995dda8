"""A link that signs in to the dashboard of the system that runs here."""

from __future__ import annotations

from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from deploy.local.system import Surroundings

__all__ = ["dashboard_link"]


def dashboard_link(surroundings: Surroundings) -> str:
    """Good for one browser, within ten minutes; `python -m service dashboard-link` makes more. Without it, if PostgreSQL has
    just been killed: somebody may have done so a moment after it was ready."""
    from service.browsers import new_link
    from service.dashboard import PATH

    engine = create_engine(surroundings.database_url.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        with Session(engine) as session, session.begin():
            link = new_link(session, name="you", role="admin")
    except OperationalError:
        return f"{surroundings.api_url}{PATH}/"
    finally:
        engine.dispose()
    return f"{surroundings.api_url}{PATH}/sign-in?link={link}"
