"""The types of the API's fields: what they accept can be stored, mailed and signed; everything else is a 422."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from actors.mail import address
from actors.webhooks import event_types

__all__ = [
    "ClientId",
    "Currency",
    "Email",
    "Form",
    "Instant",
    "Line",
    "Note",
    "Prose",
    "SendAt",
    "Sku",
    "Type",
    "refused",
]

_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.]\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
_FURTHEST = timedelta(days=366)


class Form(BaseModel):
    """A request body: no unknown members, no conversions between types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def refused(detail: str) -> PydanticCustomError:
    """A violation in our own words; they must not repeat the input."""
    return PydanticCustomError("ours_refused", "{detail}", {"detail": detail})


def _note(text: str) -> str:
    if any(unicodedata.category(each) in _CONTROL for each in text):
        raise refused("must be one line without control characters")
    return text


def _line(text: str) -> str:
    if not text.strip():
        raise refused("must not be blank")
    return _note(text)


def _prose(text: str) -> str:
    if any(each not in "\t\n\r" and unicodedata.category(each) in ("Cc", "Cs") for each in text):
        raise refused("must not hold control characters, NUL or lone surrogates")
    return text


def _email(text: str) -> str:
    try:
        return str(address.parse(text))
    except address.AddressRefused:
        raise refused("must be an e-mail address such as name@example.com") from None


def _instant_text(value: Any) -> Any:
    # Pydantic would also take a number of seconds, even as text.
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        raise refused("must be a date and time such as 2030-01-31T12:00:00Z")
    return value


def _within_reach(instant: datetime) -> datetime:
    if instant > datetime.now(UTC) + _FURTHEST:
        raise refused(f"must lie within {_FURTHEST.days} days")
    return instant


def _event_type(text: str) -> str:
    try:
        return event_types.check_name(text)
    except event_types.EventTypeRefused as refusal:
        raise refused(str(refusal)) from None


def _currency(code: str) -> str:
    if code not in _CURRENCIES:
        raise refused("must be a currency code of ISO 4217, such as EUR")
    return code


_CODES = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF
CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ
GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP
LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR
PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC
SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF
XPF YER ZAR ZMW ZWG
"""
_CURRENCIES = frozenset(_CODES.split())

Note = Annotated[str, AfterValidator(_note)]
Line = Annotated[str, Field(min_length=1), AfterValidator(_line)]
Prose = Annotated[str, Field(min_length=1), AfterValidator(_prose)]
Email = Annotated[str, Field(min_length=3, max_length=254, examples=["ada@example.org"]), AfterValidator(_email)]
Sku = Annotated[Line, Field(max_length=64, examples=["BOOK-42"])]
Currency = Annotated[str, AfterValidator(_currency), Field(examples=["EUR"])]
#: Letters, digits, `_`, `-` and `:`; no dot, for an id in a signed webhook must not hold one.
ClientId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_:\-]+$", examples=["cart-7731"])]
Type = Annotated[str, Field(min_length=1, examples=["user.created"]), AfterValidator(_event_type)]
Instant = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_instant_text)]
SendAt = Annotated[Instant, AfterValidator(_within_reach)]
