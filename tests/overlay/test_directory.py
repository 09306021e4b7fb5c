"""The directory: signed records that spread, and what cannot get in."""

from __future__ import annotations

from random import Random

import pytest

from polder.model import Kind, Refused, RevocationList, Signed, Verdict, encode
from polder.model.overlay_messages import Caller, Held, Sync, Synced
from polder.overlay import CallOut, Directory
from polder.overlay.checks import MAX_LIFE
from tests.overlay.support import AUTHORITY, NOW, appointment, caller, node, pki, record, signed_by, site_caller

HOSTS = ("wiki.test", "shop.test", "www.shop.test")


def directory(seed: int = 1) -> Directory:
    verifier = pki().verifier()

    def hosts_of(signed: Signed, now: float) -> tuple[str, ...]:
        return verifier.identity(signed.chain, now).hosts

    return Directory(verifier, hosts_of, frozenset({AUTHORITY}), Random(seed), sync_every=10.0)


def site(name: str = "wiki", epoch: int = 1, hosts: tuple[str, ...] = ("wiki.test",), **more: object) -> Signed:
    """A site's record, signed with a certificate that names all of ``HOSTS``."""
    return signed_by(record(name, epoch, hosts, **more), "site", name, HOSTS)  # type: ignore[arg-type]


def revocations(epoch: int, *, later: int = 0) -> Signed:
    return pki().issuer.sign_revocations(RevocationList(epoch, int(NOW) + later, ("spiffe://o.test/user/eve",), ()))


def calls(one: Directory) -> list[CallOut]:
    out = []
    while (call := one.poll_call()) is not None:
        out.append(call)
    return out


def test_a_record_is_known_by_its_site_and_kept_for_a_restart() -> None:
    one = directory()
    assert one.offer(site(), NOW) and one.take_change()
    assert one.site("wiki") == record() and one.sites() == {"wiki": record()} and one.site("shop") is None
    two = directory()
    for signed in one.signed():
        two.offer(signed, NOW)
    assert two.sites() == one.sites()


def test_the_highest_epoch_wins_and_replays_are_no_news() -> None:
    one = directory()
    assert one.offer(site(epoch=2), NOW)
    assert not one.offer(site(epoch=1), NOW) and not one.offer(site(epoch=2), NOW)
    assert one.offer(site(epoch=3), NOW)
    assert one.site("wiki") == record(epoch=3)


def test_the_revocation_list_is_the_authoritys_alone_and_may_be_issued_anew() -> None:
    one = directory()
    assert one.offer(revocations(3), NOW)
    assert not one.offer(revocations(2), NOW) and not one.offer(revocations(3), NOW)
    assert one.offer(revocations(3, later=60), NOW), "a sign of life of the authority"
    assert one.offer(revocations(4), NOW)
    assert one.revocations() is not None and one.revocations().epoch == 4  # type: ignore[union-attr]
    with pytest.raises(Refused) as info:
        one.offer(signed_by(RevocationList(9, int(NOW), (), ()), "node", "n1"), NOW)
    assert info.value.verdict is Verdict.WRONG_HOLDER


@pytest.mark.parametrize(
    ("signed", "verdict"),
    [
        (lambda: Signed(b"noise", b"", ()), Verdict.MALFORMED),
        (lambda: appointment(), Verdict.MALFORMED),
        (lambda: signed_by(record(), "site", "shop", HOSTS), Verdict.WRONG_HOLDER),
        (lambda: signed_by(record(), "node", "wiki"), Verdict.WRONG_HOLDER),
        (lambda: site(hosts=("bank.test",)), Verdict.DENIED),
        (lambda: site(end=NOW), Verdict.EXPIRED),
        (lambda: site(end=NOW + 40 * MAX_LIFE), Verdict.MALFORMED),
        (lambda: Signed(encode(record(epoch=99)), site().signature, site().chain), Verdict.BAD_SIGNATURE),
    ],
)
def test_what_a_site_may_not_say_is_refused(signed, verdict: Verdict) -> None:  # type: ignore[no-untyped-def]
    one = directory()
    with pytest.raises(Refused) as info:
        one.offer(signed(), NOW)
    assert info.value.verdict is verdict
    assert one.signed() == () and calls(one) == [] and not one.take_change()


def test_a_host_belongs_to_the_first_site_that_holds_it() -> None:
    one = directory()
    one.offer(site("wiki", hosts=("wiki.test",)), NOW)
    with pytest.raises(Refused, match="belongs to site wiki"):
        one.offer(site("shop", hosts=("shop.test", "WIKI.test")), NOW)
    one.offer(site("wiki", epoch=2, hosts=()), NOW)
    one.offer(site("shop", hosts=("shop.test", "WIKI.test")), NOW)


def test_expired_records_fall_out_and_free_their_hosts() -> None:
    one = directory()
    one.offer(site(end=NOW + 100), NOW)
    one.take_change()
    one.handle_timeout(NOW + 100)
    assert one.sites() == {} and one.take_change()
    one.offer(site("shop", hosts=("wiki.test",)), NOW + 100)


def test_a_revoked_sites_record_is_dropped() -> None:
    from polder.trust import Revoked

    verifier = pki().verifier()
    one = Directory(verifier, lambda _s, _n: HOSTS, frozenset({AUTHORITY}), Random(1))
    one.offer(site("wiki"), NOW)
    one.offer(site("shop", hosts=("shop.test",)), NOW)
    verifier.revoked = Revoked.of(RevocationList(1, int(NOW), ("spiffe://o.test/site/wiki",), ()))
    one.recheck(NOW)
    assert set(one.sites()) == {"shop"}


def test_news_is_pushed_to_a_few_and_only_once() -> None:
    one = directory()
    one.set_peers([node(f"n{i}") for i in range(10)])
    signed = site()
    one.offer(signed, NOW)
    pushed = calls(one)
    assert len({call.to for call in pushed}) == 3 and all(call.body == Sync(None, (signed,)) for call in pushed)
    one.offer(signed, NOW)
    one.sync(Sync(None, (signed,)), caller("n2"), NOW)
    assert calls(one) == []


def test_the_first_peer_is_asked_at_once_and_later_ones_in_turn() -> None:
    one = directory()
    one.handle_timeout(NOW)
    assert calls(one) == [] and (one.poll_timeout() or 0) > NOW, "nobody to ask"
    one.set_peers([node("n1")])
    assert (one.poll_timeout() or 0) <= NOW
    one.handle_timeout(NOW)
    assert [(call.to, call.method) for call in calls(one)] == [(node("n1"), "sync")]
    one.set_peers([node("n1"), node("n2")])
    assert (one.poll_timeout() or 0) > NOW
    silent = Directory(pki().verifier(), lambda _signed, _now: (), frozenset(), Random(1), gossips=False)
    silent.set_peers([node("n1")])
    assert silent.poll_timeout() is None


def test_sites_see_the_revocations_and_themselves_only() -> None:
    one = directory()
    for signed in (site("wiki"), site("shop", hosts=("shop.test",)), revocations(1)):
        one.offer(signed, NOW)
    assert len(one.sync(Sync(()), caller("n1"), NOW).records) == 3
    seen = one.sync(Sync(()), site_caller("shop"), NOW)
    assert seen.records == (revocations_of(one), site("shop", hosts=("shop.test",))) and seen.wanted == ()
    assert one.sync(Sync(()), Caller(Kind.USER, "ann"), NOW).records == (revocations_of(one),)


def revocations_of(one: Directory) -> Signed:
    return one._records["revocations"].signed


def test_a_site_publishes_itself_and_hears_why_if_it_may_not() -> None:
    one = directory()
    assert one.sync(Sync(None, (site(),)), site_caller("wiki"), NOW) == Synced(())
    assert "wiki" in one.sites()
    with pytest.raises(Refused, match=r"bank\.test"):
        one.sync(Sync(None, (site(epoch=2, hosts=("bank.test",)),)), site_caller("wiki"), NOW)
    # One bad record among good ones does not stop the good ones.
    one.sync(Sync(None, (site(epoch=2, hosts=("bank.test",)), site(epoch=2))), caller("n1"), NOW)
    assert one.site("wiki") == record(epoch=2)


def test_large_directories_are_told_in_parts_with_revocations_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polder.overlay.directory.MAX_ANSWER", 3000)
    one, two = directory(1), directory(2)
    for name in ("wiki", "shop", "blog"):
        one.offer(signed_by(record(name, 1, ()), "site", name, HOSTS), NOW)
    one.offer(revocations(1), NOW)
    two.set_peers([node("one")])
    two.handle_timeout(NOW)
    rounds = 0
    pending = calls(two)
    while pending:
        (call,) = pending
        assert isinstance(call.body, Sync)
        answer = one.sync(call.body, caller("two"), NOW)
        if not rounds:
            assert answer.more and answer.records[0] == revocations_of(one)
        two.answered(call.request_id, node("one"), answer, NOW)
        pending = calls(two)
        rounds += 1
    assert rounds > 1 and set(two.sites()) == {"wiki", "shop", "blog"} and two.revocations() is not None


def test_noise_in_a_digest_asks_for_nothing_strange() -> None:
    one = directory()
    answer = one.sync(Sync((Held("site/new", 4), Held("secrets", 9), Held("../etc", 1))), caller("n1"), NOW)
    assert answer.wanted == ("site/new",)


@pytest.mark.parametrize("loss", [0.0, 0.4])
def test_all_nodes_learn_everything_over_a_lossy_network(loss: float) -> None:
    rng = Random(5)
    names = [f"n{i}" for i in range(12)]
    nodes = {name: directory(i) for i, name in enumerate(names)}
    for name, one in nodes.items():
        one.set_peers([node(other) for other in names if other != name])
    nodes["n0"].offer(site("wiki"), NOW)
    nodes["n7"].offer(site("shop", hosts=("shop.test",)), NOW)
    nodes["n3"].offer(revocations(2), NOW)
    nodes["n4"].offer(revocations(1), NOW)
    now = NOW
    for _ in range(12):
        settle(nodes, now, rng, loss)
        now += 12.5
        for one in nodes.values():
            one.handle_timeout(now)
    settle(nodes, now, rng, 0.0)
    assert all(set(one.sites()) == {"wiki", "shop"} for one in nodes.values())
    assert all((r := one.revocations()) and r.epoch == 2 for one in nodes.values())


def settle(nodes: dict[str, Directory], now: float, rng: Random, loss: float) -> None:
    """Deliver until nobody speaks."""
    spoke = True
    while spoke:
        spoke = False
        for name, one in nodes.items():
            for call in calls(one):
                spoke = True
                assert call.to is not None and isinstance(call.body, Sync)
                if rng.random() < loss:
                    one.failed(call.request_id, 0, "lost", now)
                else:
                    one.answered(call.request_id, call.to, nodes[call.to.name].sync(call.body, caller(name), now), now)


def test_a_bad_record_from_a_peer_is_reported_not_kept() -> None:
    one = directory()
    one.set_peers([node("n1")])
    one.handle_timeout(NOW)
    (call,) = calls(one)
    refusals = one.answered(call.request_id, node("n1"), Synced((site(hosts=("bank.test",)), site())), NOW)
    assert [r.verdict for r in refusals] == [Verdict.DENIED] and set(one.sites()) == {"wiki"}
