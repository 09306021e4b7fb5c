"""A decider by KeyNote alone: free of charge, for providers that grant bandwidth to whom they trust (RFC 2704)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from polder.keynote import Checker, KeyNoteError, parse
from polder.model.reservations import Ask, Verdict
from polder.rsvp.errors import Policy, RsvpError
from polder.rsvp.policy_data import unpack_bundle

APPLICATION = "Polder-BandEx"
VALUES = ("refuse", "reserve")


class KeyNoteDecider:
    """Asks KeyNote: policies of this provider, credentials from the bundle, attributes from the question and the clock alone.

    The requester is the router, as principal ``router:NAME``: policy and credentials must come down to it, and whoever holds a credential
    for it may use it, as in the paper's open offers. Credentials without Conditions are refused: they would grant everything.
    """

    def __init__(self, policies: Sequence[str], again: float, checker: Checker | None = None) -> None:
        """``again``: seconds after which a decision is to be made anew. Raises ``KeyNoteError`` for a policy that is none."""
        self._policies = tuple(map(parse, policies))
        self._again = again
        self._checker = checker or Checker()

    def decide_many(self, asks: Sequence[Ask], now: float) -> Sequence[Verdict]:
        """One verdict for each."""
        return [self.decide(ask, now) for ask in asks]

    def release(self, ask: Ask, now: float) -> None:
        """Nothing is kept."""

    def numbers(self) -> dict[str, float | dict[str, float]]:
        """KeyNote's work."""
        return self._checker.numbers()

    def decide(self, ask: Ask, now: float) -> Verdict:
        """Never raises: what cannot be judged is refused in words."""
        try:
            credentials = unpack_bundle(ask.bundle) if ask.bundle else ()
            answer = self._checker.query(
                self._policies, credentials, [f"router:{ask.router}"], attributes(ask, now), VALUES, require_conditions=True
            )
        except RsvpError as error:
            return Verdict(False, Policy.SYNTAX, error.why, 0.0, "")
        except KeyNoteError as error:
            return Verdict(False, Policy.SYNTAX, f"the credentials cannot be judged: {error}", 0.0, "")
        if answer.value == VALUES[1]:
            return Verdict(True, 0, "the policy allows it", now + self._again, "")
        if not ask.bundle:
            return Verdict(False, Policy.MISSING, "no credentials came, and the policy demands some", 0.0, "")
        return Verdict(False, Policy.REJECTED, "no chain of credentials leads from the policy to this reservation", 0.0, "")


def attributes(ask: Ask, now: float) -> dict[str, str]:
    """The action's attributes: what the objects of the message say and what time it is (never what the payer claims)."""
    return {
        "app_domain": APPLICATION,
        "router": ask.router,
        "link": ask.link,
        "session": ask.session,
        "senders": ", ".join(ask.senders),
        "style": ask.style,
        "service": ask.service,
        "rate": str(ask.rate),
        "bucket": str(ask.bucket),
        "peak": str(ask.peak),
        "min_unit": str(ask.min_unit),
        "max_packet": str(ask.max_packet),
        "reserved_rate": str(ask.reserved_rate),
        "flowspec": ask.flowspec,
        "date": datetime.fromtimestamp(now, UTC).strftime("%Y%m%d%H%M%S"),
    }
