"""Why credentials pay for a reservation, or do not: every question of the judgement with its answer, and KeyNote's own account."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from polder.bandex import bundle as bundles
from polder.bandex.bundle import Bundle, normal
from polder.bandex.judge import VALUES, Flow, Trust, attributes, check_flow, check_price, check_time, check_total, policy
from polder.bandex.money import MOST
from polder.bandex.terms import KINDS, route_principal
from polder.bandex.texts import kind_of
from polder.keynote import Checker, KeyNoteError, show
from polder.keynote.explain import Note, drawn, explain
from polder.model import Refused


@dataclass(frozen=True)
class Step:
    """One question. ``good``: passed; ``why``: the refusal that an ISP would give, or what was found."""

    question: str
    good: bool
    why: str


@dataclass
class Examination:
    """All steps; ``notes`` and ``graph``: of KeyNote, when it could be asked. ``who``: the parties' short names, and their parts;
    ``kinds``: of the assertions that the notes speak of.
    """

    steps: list[Step] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    graph: list[str] = field(default_factory=list)
    who: dict[str, str] = field(default_factory=dict)
    kinds: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether an ISP would take it."""
        return all(step.good for step in self.steps)


@dataclass(frozen=True)
class Given:
    """What the reservation is, as far as it is known; what is ``None`` is taken from the check, and then cannot be wrong."""

    session: str | None = None
    senders: tuple[str, ...] | None = None
    flowspec: str | None = None
    rate: int | None = None

    def flow(self, paid: Bundle) -> Flow:
        """The flow to judge by."""
        check = paid.check
        return Flow(
            isp=check.isp,
            route=check.route,
            router="",
            link="",
            session=check.session if self.session is None else self.session,
            senders=check.senders if self.senders is None else self.senders,
            style="",
            service=paid.offer.service,
            rate=1 if self.rate is None else self.rate,
            bucket=0,
            peak=0,
            flowspec=check.flowspec if self.flowspec is None else self.flowspec,
        )


def examine(
    texts: Sequence[str], given: Given, now: float, trust: Trust | None = None, most_life: float = 86_400.0
) -> Examination:
    """Ask everything that an ISP asks at ``now``, and go on after a refusal. ``trust``: the ISP's; ``None``: whoever answers last."""
    found = Examination()
    for number, text in enumerate(texts, 1):
        _ask(found, f"credential {number} has a form of BandEx", functools.partial(_form, text))
    try:
        paid = bundles.read(texts)
    except Refused as refused:
        found.steps.append(Step("check, credit, guarantees and offer belong together", False, refused.why))
        return found
    found.steps.append(Step("check, credit, guarantees and offer belong together", True, f"{len(texts)} credentials"))
    found.who = _parties(paid)
    flow = given.flow(paid)
    _ask(found, "they are good at this moment", lambda: check_time(paid, now, most_life))
    _ask(found, "the check is for this flow", lambda: check_flow(paid, flow))
    if given.rate is not None:
        _ask(found, "the check pays the offer's price", lambda: f"{check_price(paid, flow)} micro-units are due")
    _ask(
        found,
        "the credit covers it, if nothing of it was spent",
        lambda: f"{check_total(paid, 0)} of {paid.credit.total} micro-units",
    )
    if trust is None:
        last = paid.guarantees[-1].guarantor if paid.guarantees else paid.credit.provider
        trust = Trust({last: MOST})
    _chain(found, paid, flow, now, trust)
    return found


def _parties(paid: Bundle) -> dict[str, str]:
    found = {paid.check.payer: "the payer", paid.credit.provider: "the provider", paid.offer.isp_key: f"the ISP {paid.offer.isp}"}
    banks = {one.guarantor: "a bank" for one in paid.guarantees}
    return {show(normal(key)): part for key, part in (banks | found).items()}


def _form(text: str) -> str:
    return KINDS[kind_of(text).kind].read(text).FORM.kind


def _chain(found: Examination, paid: Bundle, flow: Flow, now: float, trust: Trust) -> None:
    """KeyNote's word, with the part of every assertion."""
    try:
        rules = policy(trust.roots(paid), flow.isp, paid.offer.isp_key)
        due = paid.offer.price(flow.rate, paid.check.seconds)
        asked = attributes(paid, flow, now, due, paid.check.amount)
        requester = route_principal(flow.isp, flow.route)
        answer = Checker().query(rules, paid.texts, [requester], asked, VALUES, require_conditions=True, whole=True)
    except (Refused, KeyNoteError) as error:
        why = error.why if isinstance(error, Refused) else str(error)
        found.steps.append(Step("the credentials lead from whom the ISP trusts to its offer", False, why))
        return
    found.kinds = ["the ISP's policy"] * len(rules) + [f"the {kind_of(text).kind}" for text in paid.texts]
    found.notes = explain(answer)
    found.graph = drawn(answer)
    # What fails by itself is told; what fails because of it is in the notes.
    broken = [
        f"{kind}: {note.why}"
        for kind, note in zip(found.kinds, found.notes, strict=True)
        if note.kind in ("conditions", "refused")
    ]
    why = "KeyNote says true" if answer.value == "true" else "; ".join(broken) or "one credential in the chain is missing"
    found.steps.append(Step("the credentials lead from whom the ISP trusts to its offer", answer.value == "true", why))


def _ask(found: Examination, question: str, ask: Callable[[], object]) -> None:
    try:
        answer = ask()
    except Refused as refused:
        found.steps.append(Step(question, False, refused.why))
    else:
        found.steps.append(Step(question, True, str(answer) if answer is not None else ""))
