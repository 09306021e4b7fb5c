"""What a node lets an operator rehearse: never more than half, never two at once, never without rest."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.model import Kind, Refused, Verdict
from polder.model.admin_messages import Drill
from polder.model.overlay_messages import Caller
from polder.overlay.drill import REST, DrillBook

ADMIN = Caller(Kind.ADMIN, "oona")
MOST = 60.0


def book(**changes: object) -> DrillBook:
    return DrillBook("n1", **({"allowed": True, "most": MOST} | changes))  # type: ignore[arg-type]


def refused(book: DrillBook, order: Drill, verdict: Verdict, caller: Caller = ADMIN, now: float = 0.0) -> None:
    with pytest.raises(Refused) as error:
        book.take(order, caller, 8, now)
    assert error.value.verdict is verdict


ANNOUNCE = Drill("a", "announce", ("n1", "n2"), 30.0)
SILENCE = msgspec.structs.replace(ANNOUNCE, step="silence")


def test_an_announced_drill_is_suffered_once() -> None:
    mine = book()
    mine.take(ANNOUNCE, ADMIN, 8, 0.0)
    mine.take(SILENCE, ADMIN, 8, 1.0)
    assert not mine.willing(2.0)
    refused(mine, SILENCE, Verdict.BUSY, now=2.0)
    mine.take(Drill("a", "end", (), 30.0), ADMIN, 8, 40.0)
    refused(mine, msgspec.structs.replace(ANNOUNCE, id="b"), Verdict.BUSY, now=100.0)
    assert mine.willing(1.0 + 30.0 * (1 + REST))


def test_what_is_refused() -> None:
    for kind in (Kind.NODE, Kind.SITE, Kind.USER):
        refused(book(), ANNOUNCE, Verdict.DENIED, Caller(kind, "x"))
    refused(book(allowed=False), ANNOUNCE, Verdict.DENIED)
    refused(book(), msgspec.structs.replace(ANNOUNCE, seconds=MOST + 1), Verdict.MALFORMED)
    refused(book(), msgspec.structs.replace(ANNOUNCE, seconds=0.0), Verdict.MALFORMED)
    refused(book(), msgspec.structs.replace(ANNOUNCE, step="burn"), Verdict.MALFORMED)
    refused(book(), msgspec.structs.replace(ANNOUNCE, nodes=("n1", "n2", "n3", "n4", "n5")), Verdict.DENIED)
    refused(book(), SILENCE, Verdict.DENIED)
    other = book()
    other.take(msgspec.structs.replace(ANNOUNCE, nodes=("n2",)), ADMIN, 8, 0.0)
    refused(other, msgspec.structs.replace(SILENCE, nodes=("n1",)), Verdict.DENIED, now=1.0)
    refused(other, msgspec.structs.replace(ANNOUNCE, id="b"), Verdict.BUSY, now=1.0)
    assert not other.willing(1.0) and other.willing(1000.0)


ORDERS = st.builds(
    Drill,
    st.sampled_from("ab"),
    st.sampled_from(["announce", "silence", "cut", "end"]),
    st.lists(st.sampled_from(["n1", "n2", "n3", "n4", "n5"]), max_size=5).map(tuple),
    st.floats(-1, 100),
)


@given(st.lists(st.tuples(ORDERS, st.floats(0, 200)), max_size=60))
def test_whatever_an_operator_asks_a_node_is_up_most_of_the_time(orders: list[tuple[Drill, float]]) -> None:
    mine, now, suffered = book(), 0.0, [(-1e9, 0.0)]
    for order, later in orders:
        now += later
        try:
            mine.take(order, ADMIN, 8, now)
        except Refused:
            continue
        if order.step in ("silence", "cut"):
            began, seconds = suffered[-1]
            assert now >= began + seconds * (1 + REST) - 1e-6
            assert 0 < order.seconds <= MOST
            suffered.append((now, order.seconds))
