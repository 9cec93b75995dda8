"""The types of the API's fields: what they accept can be stored, mailed and signed; everything else is a 422.

What a validator accepts stands in the document as a pattern, as far as a pattern can say it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

from actors.mail import address
from actors.webhooks import event_types

__all__ = [
    "AS_HEADERS",
    "AS_NOTES",
    "AS_PATTERNS",
    "AS_URL",
    "ClientId",
    "Currency",
    "Cursor",
    "Email",
    "Form",
    "Instant",
    "Line",
    "Note",
    "OrEmpty",
    "Prose",
    "SendAt",
    "Sku",
    "Type",
    "is_prose",
    "refused",
]

_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: What `unicodedata` calls so, but for lone surrogates: no JSON text that is Unicode holds one.
_CONTROLS = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.]\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
_FURTHEST = timedelta(days=366)
_WORDS = r"[A-Za-z0-9_]+(?:[.][A-Za-z0-9_]+)*"


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


def is_prose(text: str) -> bool:
    """Whether it holds only what a mail's text may: lines, tabs, and no other control."""
    return not any(each not in "\t\n\r" and unicodedata.category(each) in ("Cc", "Cs") for each in text)


def _prose(text: str) -> str:
    if not is_prose(text):
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


def _storable(instant: datetime) -> datetime:
    # PostgreSQL keeps years that Python cannot read back.
    if not 1970 <= instant.year < 9000:
        raise refused("must lie between the years 1970 and 9000")
    return instant


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


def _said(**schema: Any) -> Any:
    """Stands in the document beside what pydantic itself says of the type."""
    return Field(json_schema_extra=schema)


def _unless_empty(value: Any) -> Any:
    return None if value in ("", [""]) else value


Note = Annotated[str, AfterValidator(_note), _said(pattern=f"^[^{_CONTROLS}]*$")]
Line = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(_line),
    _said(pattern=rf"^[^{_CONTROLS}]*[^{_CONTROLS}\s][^{_CONTROLS}]*$"),
]
Prose = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(_prose),
    _said(pattern=r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"),
]
Email = Annotated[
    str,
    Field(min_length=3, max_length=254, examples=["ada@example.org"]),
    AfterValidator(_email),
    _said(format="idn-email"),
]
Sku = Annotated[Line, Field(max_length=64, examples=["BOOK-42"])]
Currency = Annotated[str, AfterValidator(_currency), Field(examples=["EUR"]), _said(enum=sorted(_CURRENCIES))]
#: Letters, digits, `_`, `-` and `:`; no dot, for an id in a signed webhook must not hold one.
ClientId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_:\-]+$", examples=["cart-7731"])]
Type = Annotated[
    str,
    Field(min_length=1, examples=["user.created"]),
    AfterValidator(_event_type),
    _said(maxLength=event_types.MAX_LENGTH, pattern=f"^{_WORDS}$"),
]
Instant = Annotated[
    AwareDatetime,
    Field(strict=False, examples=["2030-01-31T12:00:00Z"]),
    BeforeValidator(_instant_text),
    AfterValidator(_storable),
    _said(pattern=r"^(?:19[7-9]|[2-8]\d\d)\d-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:[.]\d{1,9})?)?(?:[Zz]|[+-]\d\d:?\d\d)$"),
]
SendAt = Annotated[Instant, AfterValidator(_within_reach)]


@dataclass(frozen=True, slots=True)
class _OrEmpty(BeforeValidator):
    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "allowEmptyValue": True}  # it moves to the parameter, see service/openapi.py


#: A query's parameter that is given without a value is not given.
OrEmpty = _OrEmpty(_unless_empty)
Cursor = Annotated[
    Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$"), _said(pattern="^[A-Za-z0-9_-]{21}[AQgw]$")] | None, OrEmpty
]

#: What the document says of the fields of an endpoint.
AS_URL = _said(format="uri")
AS_PATTERNS = _said(
    minItems=1, items={"type": "string", "maxLength": 128, "pattern": rf"^(?:[*]|{_WORDS}(?:[.][*])?)$"}
)
AS_NOTES = _said(additionalProperties=False)  # beside those whose name fits the pattern
AS_HEADERS = _said(
    propertyNames={"pattern": r"^[A-Za-z0-9!#$%&'*+.^_`|~\-]{1,100}$"},
    additionalProperties={
        "type": "string", "maxLength": 4096, "pattern": r"^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$",
    },
)  # fmt: skip
