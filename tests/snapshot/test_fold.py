"""The fold: what the rooms say is what the data plane gets."""

from polder.model import Member, PathMode, RevocationList, Rule, SiteRecord
from polder.snapshot.fold import DialOut, SiteView, TcpDelivery, Verdicts, fold
from polder.snapshot.schema import IdentityMaterial, Peer, Snapshot

A, B, C = (Member.of(name, place, f"192.0.2.{place}:7443") for name, place in (("a", 1), ("b", 2), ("c", 3)))
IDENTITY = IdentityMaterial((b"leaf", b"issuer"), b"key")


def record(**changes: object) -> SiteRecord:
    """A site record with defaults."""
    fields: dict[str, object] = {
        "site": "wiki",
        "epoch": 1,
        "hosts": ("Wiki.Example",),
        "ports": (80, 443),
        "allow": (Rule("group", "staff"), Rule("anyone")),
        "deny": (Rule("user", "mallory"),),
        "mode": PathMode.BEACON,
        "not_after": 10,
    }
    return SiteRecord(**(fields | changes))  # type: ignore[arg-type]


def folded(**changes: object) -> Snapshot:
    """A snapshot of verdicts with defaults."""
    return fold(Verdicts("o.test", (b"root",), IDENTITY, **changes), 7)  # type: ignore[arg-type]


def test_a_site_becomes_lower_case_hosts_tagged_rules_and_names() -> None:
    site = folded(sites=(SiteView(record(), beacons=(B, A, B), ring=((0, C, (A,)), (1, None, ()))),)).sites[0]
    assert site.hosts == ("wiki.example",)
    assert site.allow == ({"group": "staff"}, "anyone")
    assert site.deny == ({"user": "mallory"},)
    assert site.beacons == ("b", "a")
    assert [(r.key, r.next, r.alternatives) for r in site.ring] == [(0, "c", ("a",)), (1, None, ())]


def test_every_node_that_is_named_is_a_peer_once_and_warm_ones_are_marked() -> None:
    snapshot = folded(
        members=(A, B),
        warm=frozenset({"c"}),
        sites=(SiteView(record(), beacons=(C,), servlets=(A,)),),
        beacon_for={"wiki": (B,)},
    )
    assert snapshot.peers == tuple(Peer(m.name, m.ring_id, m.address, m is C) for m in (A, B, C))


def test_deliveries_and_revocations_keep_their_forms() -> None:
    snapshot = folded(
        servlet_for={"wiki": TcpDelivery("10.9.0.2", "10.9.0.3", ((80, 8080),)), "blog": DialOut()},
        revocations=RevocationList(4, 100, ("spiffe://o.test/user/ann",), (b"k" * 32,)),
        fresh_until=200,
    )
    assert [entry.delivery for entry in snapshot.servlets] == [
        "dialout",
        {"tcp": {"address": "10.9.0.2", "bind": "10.9.0.3", "ports": ((80, 8080),), "preface": False}},
    ]
    assert (snapshot.revocations.epoch, snapshot.revocations.fresh_until) == (4, 200)


def test_equal_verdicts_fold_equally_and_the_key_is_not_shown() -> None:
    one, other = folded(members=(A, B)), folded(members=(B, A))
    assert one == other
    assert "key" in repr(one.identity) and "b'key'" not in repr(one)
