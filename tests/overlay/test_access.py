"""The access point's role: beacons known before anybody asks, servlets forgotten in time."""

from __future__ import annotations

from random import Random

from polder.model import Member, PathMode, SiteRecord
from polder.model.overlay_messages import EpochSecret, ServletsAnswer, ServletsQuery
from polder.overlay import AccessPointRole, CallOut, EpochSecrets, FindOwner, Ways, beacon_keys
from tests.overlay.support import NOW, SECRET, key_of, node


def role(secrets: EpochSecrets | None = None, seed: int = 1) -> AccessPointRole:
    return AccessPointRole(secrets or EpochSecrets([SECRET]), Random(seed))


def site(name: str = "wiki", mode: PathMode = PathMode.BEACON) -> SiteRecord:
    return SiteRecord(name, 1, (), (80,), (), (), mode, int(NOW) + 1000)


def out(one: AccessPointRole) -> list[FindOwner | CallOut]:
    found = []
    while (call := one.poll_call()) is not None:
        found.append(call)
    return found


def owner_of(key: int) -> Member:
    return node(f"o{key % 1000}")


def settle(one: AccessPointRole, now: float) -> list[FindOwner | CallOut]:
    """Answer all lookups by ``owner_of``; what else it wants."""
    one.handle_timeout(now)
    rest: list[FindOwner | CallOut] = []
    while calls := out(one):
        for call in calls:
            if isinstance(call, FindOwner):
                one.found(call.request_id, (owner_of(call.ring_key), node("heir")), now)
            else:
                rest.append(call)
        one.handle_timeout(now)
    return rest


def expected(name: str = "wiki", secret: EpochSecret = SECRET) -> set[Member]:
    return {owner_of(int.from_bytes(key_of(name, index, secret), "big")) for index in range(3)}


def test_the_owners_of_all_keys_are_looked_up_at_once_and_refreshed() -> None:
    one = role()
    one.set_sites([site()], NOW)
    assert settle(one, NOW) == []
    assert set(one.ways(NOW)["wiki"].beacons) == expected() and one.take_change()
    due = one.poll_timeout()
    assert due is not None and NOW + 22.5 <= due <= NOW + 37.5
    one.handle_timeout(due)
    (again,) = out(one)
    assert isinstance(again, FindOwner)
    one.found(again.request_id, (owner_of(again.ring_key), node("heir")), due)
    assert not one.take_change(), "the same owner is no change"


def test_who_would_own_a_key_next_is_known_as_well() -> None:
    one = role()
    one.set_sites([site()], NOW)
    settle(one, NOW)
    ways = one.ways(NOW)["wiki"]
    assert ways.heirs == (node("heir"),) and node("heir") not in ways.beacons


def test_access_points_spread_the_load_over_the_beacons() -> None:
    firsts = set()
    for seed in range(20):
        one = role(seed=seed)
        one.set_sites([site()], NOW)
        settle(one, NOW)
        firsts.add(one.ways(NOW)["wiki"].beacons[0])
    assert firsts == expected()


def test_where_a_node_owns_several_keys_spare_ones_are_looked_up() -> None:
    one = role()
    one.set_sites([site()], NOW)
    one.handle_timeout(NOW)
    keys = beacon_keys(SECRET.secret, "wiki", 9)
    owners = dict(zip(keys, [node(name) for name in ("a", "a", "b", "b", "c", "d", "d", "d", "d")], strict=True))
    asked = []
    while calls := out(one):
        for call in calls:
            assert isinstance(call, FindOwner)
            asked.append(call.ring_key.to_bytes(16, "big"))
            one.found(call.request_id, (owners[asked[-1]],), NOW)
        one.handle_timeout(NOW)
    assert asked == list(keys[:5]), "the fifth key brings the third node"
    assert set(one.ways(NOW)["wiki"].beacons) == {node("a"), node("b"), node("c")}


def test_while_a_lookup_fails_the_last_answer_stays_in_force() -> None:
    one = role()
    one.set_sites([site()], NOW)
    settle(one, NOW)
    before = one.ways(NOW)
    due = one.poll_timeout()
    assert due is not None
    one.handle_timeout(due)
    for call in out(one):
        one.failed(call.request_id, 0, "nobody knows", due)
    assert one.ways(due) == before
    again = one.poll_timeout()
    assert again is not None and again <= due + 1.5


def test_when_the_ring_changes_or_a_link_falls_it_looks_again_soon() -> None:
    one = role()
    one.set_sites([site()], NOW)
    settle(one, NOW)
    one.ring_changed(NOW + 1)
    one.handle_timeout(NOW + 2)
    assert len(out(one)) == 3
    two = role()
    two.set_sites([site()], NOW)
    settle(two, NOW)
    fallen = two.ways(NOW)["wiki"].beacons[0]
    two.unreachable(fallen.name, NOW + 1)
    two.handle_timeout(NOW + 2)
    (call,) = out(two)
    assert isinstance(call, FindOwner) and owner_of(call.ring_key) == fallen


def test_lookups_are_bounded_and_none_is_forgotten() -> None:
    one = role()
    one.set_sites([site(f"s{i}") for i in range(100)], NOW)
    one.handle_timeout(NOW)
    assert len(out(one)) == 64
    for request in range(1, 65):
        one.found(request, (node(f"o{request % 3}"),), NOW)
    settle(one, NOW)
    assert all(len(ways.beacons) == 3 for ways in one.ways(NOW).values())


def test_sites_come_and_go() -> None:
    one = role()
    one.set_sites([site("wiki"), site("shop")], NOW)
    settle(one, NOW)
    one.take_change()
    one.set_sites([site("shop")], NOW)
    assert set(one.ways(NOW)) == {"shop"} and one.take_change()
    one.set_sites([], NOW)
    assert one.poll_timeout() is None


def test_an_answer_for_a_site_that_went_is_ignored() -> None:
    one = role()
    one.set_sites([site()], NOW)
    one.handle_timeout(NOW)
    calls = out(one)
    one.set_sites([], NOW)
    for call in calls:
        one.found(call.request_id, (node("o"),), NOW)
        one.failed(call.request_id, 0, "", NOW)
    assert one.ways(NOW) == {}


def test_the_coming_epochs_beacons_are_known_before_they_are_used() -> None:
    coming = EpochSecret(2, int(NOW) + 40, b"t" * 32)
    one = role(EpochSecrets([SECRET, coming]))
    one.set_sites([site()], NOW)
    now = NOW
    while now < NOW + 39:
        settle(one, now)
        due = one.poll_timeout()
        assert due is not None
        now = max(now, min(due, NOW + 39))
    assert set(one.ways(NOW + 39)["wiki"].beacons) == expected()
    assert set(one.ways(NOW + 40)["wiki"].beacons) == expected(secret=coming)
    one.take_change()
    settle(one, NOW + 40)
    assert one.take_change(), "the data plane must hear of the change"


def test_in_mode_direct_servlets_are_asked_for_and_forgotten() -> None:
    one = role()
    one.set_sites([site(mode=PathMode.DIRECT)], NOW)
    settle(one, NOW)
    due = one.poll_timeout()
    assert due is not None
    (call,) = settle(one, due) or settle(one, due + 2)
    assert (
        isinstance(call, CallOut) and call.method == "servlets" and call.body == ServletsQuery("wiki") and call.to in expected()
    )
    now = due + 2
    one.answered(call.request_id, call.to, ServletsAnswer((node("n1"), node("n2")), 20.0), now)
    assert one.ways(now)["wiki"].servlets == (node("n1"), node("n2"))
    assert one.ways(now + 20)["wiki"].servlets == ()
    due = one.poll_timeout()
    assert due is not None and due <= now + 15, "asked again before it expires"
    one.unreachable("n1", now + 1)
    assert one.ways(now + 1)["wiki"].servlets == (node("n2"),)
    one.set_sites([site(mode=PathMode.BEACON)], now + 1)
    ways = one.ways(now + 1)["wiki"]
    assert ways == Ways(ways.beacons, (), (node("heir"),))


def test_servlets_that_nobody_confirms_fall_out_of_the_table() -> None:
    one = role()
    one.set_sites([site(mode=PathMode.DIRECT)], NOW)
    (call,) = settle(one, NOW) or settle(one, NOW + 2)
    one.answered(call.request_id, node("b"), ServletsAnswer((node("n1"),), 20.0), NOW + 2)
    one.take_change()
    for second in range(3, 30):
        for again in settle(one, NOW + second):
            one.failed(again.request_id, 404, "no servlet", NOW + second)
    assert one.ways(NOW + 29)["wiki"].servlets == () and one.take_change()
