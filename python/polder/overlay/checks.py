"""Checks that several roles make of a site's signed words, cheapest first; each raises ``Refused``."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from polder.model import Appointment, Kind, Refused, Signed, Verdict, Verifier, decode
from polder.model.overlay_messages import Caller, Withdrawal

SKEW = 30.0
"""Seconds by which clocks may differ."""

MAX_LIFE = 86_400
"""Seconds for which an appointment may be valid: so long must a beacon remember epochs in order to refuse replays."""

T = TypeVar("T", bound=msgspec.Struct)


def opened(signed: Signed, kind: type[T]) -> T:
    """The record inside, not yet believed."""
    try:
        return decode(signed.payload, kind)
    except ValueError as error:
        raise Refused(Verdict.MALFORMED, str(error)) from error


def check_times(appointment: Appointment, now: float) -> None:
    """Within its validity, and that not longer than anybody remembers epochs."""
    if now >= appointment.not_after:
        raise Refused(Verdict.EXPIRED, f"the appointment of {appointment.site} ended {now - appointment.not_after:.0f} s ago")
    if now < appointment.not_before - SKEW:
        early = appointment.not_before - now
        raise Refused(
            Verdict.NOT_YET, f"the appointment of {appointment.site} begins in {early:.0f} s: compare clocks", retry=True
        )
    if appointment.not_after - appointment.not_before > MAX_LIFE:
        raise Refused(Verdict.MALFORMED, f"an appointment may be valid for {MAX_LIFE} s at most")


def check_servlet(appointment: Appointment, caller_name: str, caller_place: bytes | None) -> None:
    """The appointment is for this node at this place of the ring."""
    if (appointment.servlet, appointment.servlet_ring_id) != (caller_name, caller_place):
        raise Refused(Verdict.WRONG_HOLDER, f"the appointment of {appointment.site} is for another node than {caller_name}")


def check_signer(signed: Signed, site: str, verifier: Verifier, now: float) -> None:
    """Signed by ``site`` itself, and validly so. The dear one: last."""
    who = verifier(signed, now)
    if (who.kind, who.name) != (Kind.SITE, site):
        raise Refused(Verdict.WRONG_HOLDER, f"{who} signed what only site {site} may sign")


def check_site(caller: Caller, site: str) -> None:
    """The caller is the site itself."""
    if (caller.kind, caller.name) != (Kind.SITE, site):
        raise Refused(Verdict.WRONG_HOLDER, f"{caller.kind} {caller.name} may not speak for site {site}")


def open_withdrawal(signed: Signed, site: str, verifier: Verifier, now: float) -> Withdrawal:
    """A site's word that a servlet is out; verified."""
    withdrawal = opened(signed, Withdrawal)
    if withdrawal.site != site:
        raise Refused(Verdict.WRONG_HOLDER, f"a withdrawal of site {withdrawal.site} where one of {site} was expected")
    if now >= withdrawal.not_after:
        raise Refused(Verdict.EXPIRED, f"the withdrawal of {site} has had its time")
    if withdrawal.not_after > now + 2 * MAX_LIFE + SKEW:
        raise Refused(Verdict.MALFORMED, f"a withdrawal may be kept for {2 * MAX_LIFE} s at most")
    check_signer(signed, site, verifier, now)
    return withdrawal
