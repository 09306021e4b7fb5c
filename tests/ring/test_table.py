"""The table's look-ups against the plain definition over a sorted list of all members."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from polder.model import RING_SIZE, Member, between, distance
from polder.ring.table import Table

ids = st.integers(0, RING_SIZE - 1)
rings = st.sets(ids, min_size=2, max_size=40).map(sorted)


def at(ring_id: int) -> Member:
    return Member.of(f"n{ring_id % 997}", ring_id, "192.0.2.1:7443")


def table(order: list[int], index: int, r: int, fingers: int = 0) -> Table:
    """The right table of one member of a ring."""
    result = Table(at(order[index]), r)
    size = len(order)
    result.set_successors(at(order[(index + step) % size]) for step in range(1, min(r, size - 1) + 1))
    result.set_predecessor(at(order[index - 1]))
    for k in range(128 - fingers, 128):
        place = bisect_left(order, (order[index] + (1 << k)) % RING_SIZE)
        result.set_finger(k, at(order[place % size]))
    return result


def owner(order: list[int], key: int) -> int:
    return order[bisect_left(order, key) % len(order)]


@given(rings, st.data())
def test_exactly_the_owner_owns(order: list[int], data: st.DataObject) -> None:
    key = data.draw(ids | st.sampled_from(order))
    assert [order[i] for i in range(len(order)) if table(order, i, 2).owns(key)] == [owner(order, key)]


@given(rings, st.data())
def test_next_hops_lead_to_the_owner_without_ever_passing_it(order: list[int], data: st.DataObject) -> None:
    key = data.draw(ids | st.sampled_from(order))
    here = data.draw(st.integers(0, len(order) - 1))
    r, fingers = data.draw(st.integers(2, 5)), data.draw(st.sampled_from([0, 6, 128]))
    visited = [order[here]]
    while (hops := table(order, order.index(visited[-1]), r, fingers).next_hops(key)).next is not None:
        left = distance(visited[-1], key)
        for hop in (hops.next, *hops.alternatives):
            # Each is progress, or lies behind the key as an heir of its owner.
            assert distance(hop.id, key) < left or distance(key, hop.id) <= distance(key, visited[-1])
        visited.append(int(hops.next.id))
        assert len(visited) <= len(order) + 1
    assert visited[-1] == owner(order, key)


@given(rings, st.lists(ids, max_size=12), st.integers(2, 6), st.data())
def test_a_chopped_list_is_short_ordered_and_without_the_node(
    order: list[int], noise: list[int], r: int, data: st.DataObject
) -> None:
    me = data.draw(st.sampled_from(order))
    listed = data.draw(st.permutations(order + noise))
    kept = [int(member.id) for member in Table(at(me), r).chop(at(each) for each in listed)]
    away = [distance(me, each) for each in kept]
    assert len(kept) <= r and me not in kept and away == sorted(set(away))
    assert [each for each in dict.fromkeys(listed) if each in kept] == kept


@given(rings, st.data())
def test_preceding_are_those_between_nearest_to_the_key_first(order: list[int], data: st.DataObject) -> None:
    key = data.draw(ids | st.sampled_from(order))
    one = table(order, 0, 4, 128)
    known = {int(m.id) for m in (*one.successors, *one.fingers.values())} - {order[0]}
    expected = sorted((each for each in known if between(each, order[0], key)), key=lambda each: distance(each, key))
    assert [int(m.id) for m in one.preceding(key, 99)] == expected


def test_a_lone_node_owns_everything_and_two_share() -> None:
    one = Table(at(10), 3)
    assert one.owns(0) and one.owns(10) and one.owns(11)
    assert one.next_hops(5).next is None
    one.set_predecessor(at(20))
    assert one.owns(10) and one.owns(21) and not one.owns(20) and not one.owns(11)
    assert one.next_hops(15).next == at(20)  # the only way out, until a successor is known


def test_who_waits_for_a_predecessor_owns_only_its_own_place() -> None:
    one = Table(at(10), 3)
    one.set_successors([at(20), at(30)])
    assert one.owns(10) and not one.owns(9)


def test_a_finger_never_points_here_and_is_dropped_by_place() -> None:
    one = Table(at(10), 3)
    assert not one.set_finger(5, at(10))
    assert one.set_finger(5, at(50)) and one.set_finger(6, at(50)) and not one.set_finger(6, at(50))
    assert one.drop_finger(Member.of("renamed", 50, "x")) and not one.fingers
    assert not one.drop_finger(at(50))
