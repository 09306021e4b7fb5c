"""How far a node trusts its revocation list."""

from __future__ import annotations

from polder.model import RevocationList
from polder.model.overlay_messages import Heeded
from polder.node.belief import Belief


def listed(epoch: int, at: int) -> RevocationList:
    return RevocationList(epoch, at, (), ())


def test_a_list_is_fresh_from_its_issue_on() -> None:
    belief = Belief(100.0)
    assert belief.fresh_until(listed(1, 1000)) == 1100
    assert not belief.lags(listed(1, 1000), 1100) and belief.lags(listed(1, 1000), 1101)
    assert belief.fresh_until(None) == 100 and belief.lags(None, 1000), "without a list nobody is known to be revoked"


def test_a_fresher_list_is_worth_a_snapshot_now_and_then() -> None:
    belief = Belief(100.0)
    assert belief.is_due(listed(1, 1000))
    belief.fresh_until(listed(1, 1000))
    assert not belief.is_due(listed(1, 1005)) and belief.is_due(listed(1, 1006))


def test_without_a_bound_nothing_lags() -> None:
    belief = Belief(None)
    assert belief.fresh_until(None) is None and not belief.lags(None, 1e9) and not belief.is_due(listed(1, 1))


def test_the_answer_is_the_same_at_every_repetition() -> None:
    belief = Belief(None)
    assert belief.heeded(None) == Heeded(0, 0, 0, 0)
    belief.put_in_force(listed(3, 10), {"identities_cut": 2}, {"identities_cut": 5, "identities_tunnels_cut": 7})
    assert belief.heeded(listed(3, 10)) == Heeded(3, 10, 3, 7)
    assert belief.heeded(listed(3, 20)) == Heeded(3, 20, 3, 7), "issued anew"
    assert belief.heeded(listed(4, 30)) == Heeded(4, 30, 0, 0)
