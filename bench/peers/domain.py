"""The request-like unit that every system is measured in: one domain row, in a session of SQLAlchemy's ORM."""

from __future__ import annotations

import os

from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "bench_user"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]


TABLE = CreateTable(User.__table__)


def url(driver: str) -> URL:
    return make_url(os.environ["DATABASE_URL"]).set(drivername=f"postgresql+{driver}")


def user(number: int) -> User:
    return User(email=f"someone{number}@example.com", name="Someone Very Nice")


def arguments(number: int) -> dict[str, str | int]:
    """The same for every system, about 100 bytes of JSON."""
    return {"number": number, "email": f"someone{number}@example.com", "name": "Someone Very Nice"}
