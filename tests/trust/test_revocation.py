"""Revocation names identities and keys; a list is replaced by a newer one only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.model import Refused, RevocationList, Verdict
from polder.trust import Revoked, is_newer, make_list
from tests.support.identities import NOW, Pki, who

PKI = Pki()
ANN = PKI.verifier().identity(PKI.member("user", "ann").chain, NOW)
BOB = PKI.verifier().identity(PKI.member("user", "bob").chain, NOW)


def refused(revoked: Revoked) -> str:
    with pytest.raises(Refused) as caught:
        revoked.check(ANN)
    assert caught.value.verdict is Verdict.REVOKED
    return caught.value.why


def test_by_identity_and_by_key() -> None:
    assert "only the operator" in refused(Revoked.of(make_list(1, NOW, [ANN.id], [])))
    assert "the key of" in refused(Revoked.of(make_list(1, NOW, [], [ANN.key_hash])))


def test_others_are_not_touched() -> None:
    revoked = Revoked.of(make_list(1, NOW, [BOB.id, who("node", "ann")], [BOB.key_hash]))
    revoked.check(ANN)
    revoked.check(None)
    Revoked().check(ANN)


LISTS = st.builds(RevocationList, st.integers(0, 3), st.integers(0, 3), st.just(()), st.just(()))


@given(LISTS, LISTS)
def test_of_two_lists_at_most_one_is_newer(a: RevocationList, b: RevocationList) -> None:
    assert is_newer(a, None)
    assert not (is_newer(a, b) and is_newer(b, a))
    assert is_newer(a, b) or is_newer(b, a) or (a.epoch, a.issued_at) == (b.epoch, b.issued_at)
    if a.epoch > b.epoch:
        assert is_newer(a, b)
