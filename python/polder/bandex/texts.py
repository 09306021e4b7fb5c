"""One canonical text per kind of credential, and the way back: what is not exactly so written is not one.

A verifier must know a check's amount and nonce before it can ask KeyNote whether the check may be cashed. It reads them from the text
by a pattern made from the same template that wrote it, writes the text again and compares: so what was read is what the signed
conditions demand, in one spelling only. All else comes from the RSVP objects and the verifier's clock.
"""

from __future__ import annotations

import functools
import re
from calendar import timegm
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from polder.bandex.money import MOST
from polder.model import Refused, Verdict

APP_DOMAIN = "Polder-BandEx"
_LAST = 253_402_300_799
"""The last second of the year 9999: dates have fourteen digits, so that their order is that of their texts."""

_WORD = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PATTERNS = {
    "key": r"[A-Za-z0-9][!#-\[\]-~]{0,1199}",
    "name": _WORD,
    "text": r"[ !#-\[\]-~]{0,1000}",
    "int": r"0|[1-9][0-9]{0,9}",
    "hex": r"[0-9a-f]{64}",
    "nonce": r"[0-9a-f]{32}",
    "currency": r"[A-Z]{3}",
    "date": r"[0-9]{14}",
    "service": r"controlled-load|guaranteed",
}
_KINDS = {kind: re.compile(rf"(?:{pattern})\Z") for kind, pattern in _PATTERNS.items()}
_SLOT = re.compile(r"\{(\w+):(\w+)\}")


def format_date(seconds: float) -> str:
    """The ``date`` attribute of a moment: YYYYMMDDHHMMSS, UTC."""
    return _format_second(int(seconds))


@functools.lru_cache(maxsize=64)
def _format_second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y%m%d%H%M%S}"


@functools.lru_cache(maxsize=256)
def _read_date(text: str) -> int:
    return timegm((int(text[:4]), *(int(text[at : at + 2]) for at in range(4, 14, 2))))


_READ: Mapping[str, Callable[[str], Any]] = {"int": int, "date": _read_date}


class Form:
    """A credential's text with ``{name:kind}`` slots. ``write`` and ``read`` are inverse."""

    def __init__(self, kind: str, body: str) -> None:
        self.kind = kind
        self.mark = f"KeyNote-Version: 2\nComment: BandEx {kind}\n"
        template = self.mark + body
        self._slots: dict[str, str] = {}
        parts: list[str] = []
        spans: list[str] = []
        at = 0
        for slot in _SLOT.finditer(template):
            name, how = slot[1], slot[2]
            literal = template[at : slot.start()]
            parts.append(literal.replace("{", "{{").replace("}", "}}") + f"{{{name}}}")
            known = name in self._slots
            spans.append(re.escape(literal) + (f"(?P={name})" if known else f"(?P<{name}>{_PATTERNS[how]})"))
            self._slots[name] = how
            at = slot.end()
        self._template = "".join(parts) + template[at:]
        self._pattern = re.compile("".join(spans) + re.escape(template[at:]) + "Signature:")

    def write(self, values: Mapping[str, Any]) -> str:
        """The text up to its Signature field; raises ``Refused`` for a value that has no place in it."""
        return self._template.format_map({name: self._shown(name, how, values[name]) for name, how in self._slots.items()})

    def read(self, text: str) -> dict[str, Any]:
        """The values in a signed text; raises ``Refused`` when it is not of this form to the letter."""
        match = self._pattern.match(text)
        if match is None:
            raise Refused(Verdict.MALFORMED, f"the {self.kind} is not written as BandEx writes it: compare docs/design/bandex.md")
        try:
            values = {name: _READ.get(self._slots[name], str)(found) for name, found in match.groupdict().items()}
            again = self.write(values)
        except ValueError:
            again = ""
        if not text.startswith(again + "Signature:"):
            raise Refused(Verdict.MALFORMED, f"the {self.kind} has a number or date that cannot be")
        return values

    def _shown(self, name: str, how: str, value: Any) -> str:
        if how == "int":
            fits = isinstance(value, int) and 0 <= value <= MOST
        elif how == "date":
            fits = isinstance(value, int) and 0 <= value <= _LAST
            value = format_date(value) if fits else value
        else:
            fits = isinstance(value, str) and _KINDS[how].match(value) is not None
        if not fits:
            raise Refused(Verdict.MALFORMED, f"{str(value)[:60]!r} cannot be the {name} in a credential of the kind {self.kind}")
        return str(value)


_VALID = '  && date >= "{not_before:date}" && date < "{not_after:date}" -> "true";\n'

OFFER = Form(
    "offer",
    'Authorizer: "{isp_key:key}"\n'
    'Licensees: "route:{isp:name}/{route:name}"\n'
    'Conditions: app_domain == "Polder-BandEx" && isp == "{isp:name}" && route == "{route:name}"\n'
    '  && service == "{service:service}" && currency == "{currency:currency}"\n'
    "  && @setup == {setup:int} && @per_mbit_hour == {per_mbit_hour:int}\n"
    "  && @rate >= 1 && @rate <= {most_rate:int} && @seconds >= 1 && @seconds <= {most_seconds:int}\n"
    "  && @amount >= 1 && @amount >= @price\n" + _VALID,
)
CREDIT = Form(
    "credit",
    'Authorizer: "{provider:key}"\n'
    'Licensees: "{user:key}"\n'
    'Conditions: app_domain == "Polder-BandEx" && currency == "{currency:currency}" && credit == "{nonce:nonce}"\n'
    "  && @amount >= {least:int} && @amount <= {most:int} && @total >= {least:int} && @total <= {total:int}\n" + _VALID,
)
CHECK = Form(
    "check",
    'Authorizer: "{payer:key}"\n'
    'Licensees: "{isp_key:key}"\n'
    'Conditions: app_domain == "Polder-BandEx" && isp == "{isp:name}" && route == "{route:name}"\n'
    '  && session == "{session:text}" && senders == "{senders:text}"\n'
    '  && flowspec == "{flowspec:hex}"\n'
    '  && currency == "{currency:currency}" && @amount == {amount:int}\n'
    '  && credit == "{credit_nonce:nonce}" && nonce == "{nonce:nonce}"\n' + _VALID,
)
GUARANTEE = Form(
    "guarantee",
    'Authorizer: "{guarantor:key}"\n'
    'Licensees: "{provider:key}"\n'
    'Conditions: app_domain == "Polder-BandEx" && currency == "{currency:currency}"\n'
    "  && @amount >= 1 && @amount <= {most:int}\n" + _VALID,
)
FORMS = (CHECK, CREDIT, OFFER, GUARANTEE)


def kind_of(text: str) -> Form:
    """Which form a text claims to have; raises ``Refused``."""
    for form in FORMS:
        if text.startswith(form.mark):
            return form
    raise Refused(Verdict.MALFORMED, "an assertion is neither check, credit, offer nor guarantee of BandEx")
