"""The kind of a failure: the same for what failed at the same place with the same words, whatever the values were.

Twelve digits of a hash over the exception's class, the innermost frame of the application's own code, and the message without its
numbers, ids, texts, addresses, paths and times. No line numbers: a deploy that moves code keeps its kinds.
"""

from __future__ import annotations

import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator

__all__ = ["fingerprint", "fingerprint_of"]

#: Longer messages are told apart by their beginning: a page of HTML, a dump of rows.
LONGEST = 1000


def fingerprint(kind: str, message: str, traceback: str) -> str:
    """Twelve hexadecimal digits. `kind` is the exception's class; `traceback` as `traceback.format_exception` writes it, or empty."""
    place = _place(_without(message, traceback))
    said = "\n".join((kind, place, _plain(message)))
    return hashlib.blake2s(said.encode(errors="replace"), digest_size=6).hexdigest()


def fingerprint_of(error: str, traceback: str | None) -> str:
    """The same of what an attempt holds: `Kind: message` where something was raised, else a sentence of the outbox's own."""
    kind, colon, message = error.partition(": ")
    if traceback and colon and kind.isidentifier():
        return fingerprint(kind, message, traceback)
    return fingerprint("", error, traceback or "")


# ---------------------------------------------------------------------- where

_BEGIN = re.compile(r"^(?:  \+ Exception Group )?Traceback \(most recent call last\):\n", re.MULTILINE)
_FRAME = re.compile(r' +(?:\| +)?File "(.+)", line \d+, in (.+)')
#: Not the application's own, wherever they are installed; nor what was compiled from no file.
_FOREIGN = re.compile(r"/(?:site|dist)-packages/|/lib(?:64)?/python3\.\d+/|^<", re.IGNORECASE)
_HERE = tuple(f"{path.replace(os.sep, '/')}/" for path in (os.path.dirname(__file__), sysconfig.get_path("stdlib")))
#: Frames of their own before Python 3.12, none since.
_INLINED = ("<listcomp>", "<dictcomp>", "<setcomp>")


def _place(traceback: str) -> str:
    """The innermost own frame, else the innermost: the file's last two parts and the function."""
    frames = list(_frames(traceback))
    own = [frame for frame in frames if not (_FOREIGN.search(frame[0]) or frame[0].startswith(_HERE))]
    if not frames:
        return ""
    path, function = (own or frames)[-1]
    return f"{'/'.join(path.split('/')[-2:])} {function}"


def _frames(traceback: str) -> Iterator[tuple[str, str]]:
    """(path, function) of each frame of the exception itself, which stands last; those that it came from stand before."""
    for line in _BEGIN.split(traceback)[-1].split("\n"):
        if not line.startswith("  ") or line.startswith("  +-"):
            return
        if (found := _FRAME.fullmatch(line)) and found[2] not in _INLINED:
            yield found[1].replace("\\", "/"), found[2]


def _without(message: str, traceback: str) -> str:
    """A message may quote a traceback of its own."""
    before, found, _ = traceback.rpartition(message) if "\n" in message else ("", "", "")
    return before if found else traceback


# ---------------------------------------------------------------------- what

_VALUE = "\x00"
_VALUES = re.compile(
    r"""
    (?<![\w])[brfu]{0,2}(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")(?!\w) | `[^`\n]*` | [“«„][^”»“\n]*[”»“]    # quoted texts
    | <[^<>\n]*\bat\ 0x[0-9a-f]+[^<>\n]*>                                        # an object's repr
    | [a-z][a-z0-9+.-]*://[^\s'"<>)\]]+                                          # URLs
    | [\w.+%-]+@[\w-]+(?:\.[\w-]+)+                                              # mail addresses
    | \[[0-9a-f:]*:[0-9a-f:.]*\](?::\d+)? | (?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])    # IPv6
    | (?<![\w.])(?:[a-z]:)?[\\/](?:[\w.@%+~-]+[\\/])*[\w.@%+~-]+[\\/]?           # paths
    | (?<![\w.])(?:[\w@%+~-][\w.@%+~-]*/){2,}[\w.@%+~-]+                         # relative ones
    | \b(?:mon|tue|wed|thu|fri|sat|sun),?\ (?=\d|[a-z]{3}\ )                     # of a date: the rest is numbers
    | \b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*(?=\ \d)
    | (?<=\d\ )(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b
    | (?<![a-z])(?:none|true|false|null|nan|inf)(?![a-z])
    | (?<![\w])[\w.:+-]*\d[\w.:+-]*                                             # numbers, ids, times, hosts: words with digits
    | \b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b | \b[0-9a-f]{16,}\b        # those that happen to have none
    """,
    re.VERBOSE | re.IGNORECASE,
)
#: Some values in a row, or in brackets, are one: how many they were is no kind.
_ROW = re.compile(r"\x00(?:[\s,;:=|-]*\x00)+")
_BRACKETS = re.compile(r"[(\[{]\s*(?:\x00[\s,;:=-]*)*[)\]}]")


def _plain(message: str) -> str:
    text = _VALUES.sub(_VALUE, message[:LONGEST])
    while (shorter := _BRACKETS.sub(_VALUE, _ROW.sub(_VALUE, text))) != text:
        text = shorter
    return " ".join(text.replace(_VALUE, "#").split())
