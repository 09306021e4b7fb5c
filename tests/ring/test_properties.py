"""The checker of the five properties, checked: against their definitions, and the cheap certificate against the full look."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from polder.model import between
from polder.ring.properties import Watch, best_successor, ideal, ordered_list, principals, violations

nodes = st.integers(0, 30)
lists = st.dictionaries(nodes, st.lists(nodes, max_size=3).map(tuple), min_size=1, max_size=8)


def names(found: list[str]) -> set[str]:
    return {text.split(":")[0].split(" ")[0] for text in found}


def by_definition(state: dict[int, tuple[int, ...]]) -> set[str]:
    """The five properties, spelled out as quantifiers."""
    best = {node: best_successor(node, state) for node in state}

    def reach(node: int) -> list[int]:
        seen: list[int] = []
        step = best[node]
        while step is not None and step not in seen:
            seen.append(step)
            step = best[step]
        return seen

    ring = {node for node in state if node in reach(node)}
    found = set()
    if not ring:
        found.add("AtLeastOneRing")
    if any(b not in reach(a) for a in ring for b in ring):
        found.add("AtMostOneRing")
    if any(best[a] == b and between(c, a, b) for a, b, c in permutations(ring, 3)):
        found.add("OrderedRing")
    if any(not ring & set(reach(node)) for node in state):
        found.add("ConnectedAppendages")
    if any(not ordered_list(node, listed) for node, listed in state.items()):
        found.add("OrderedSuccessorLists")
    return found


@given(lists)
@settings(max_examples=500)
def test_the_full_look_agrees_with_the_definitions(state: dict[int, tuple[int, ...]]) -> None:
    found, expected = names(violations(state)), by_definition(state)
    # With several rings a turn says nothing about order among them; both views agree that something is wrong.
    if "AtMostOneRing" in expected:
        assert "AtMostOneRing" in found
    else:
        assert found == expected


@given(lists, st.lists(st.tuples(nodes, st.none() | st.lists(nodes, max_size=3).map(tuple)), max_size=30))
@settings(max_examples=300)
def test_following_changes_finds_what_looking_anew_finds(
    start: dict[int, tuple[int, ...]], changes: list[tuple[int, tuple[int, ...] | None]]
) -> None:
    watch = Watch()
    assert not watch.begin(start) or violations(start)
    state = dict(start)
    for node, listed in changes:
        if listed is not None:
            state[node] = listed
            found = watch.update(node, listed)
        elif node in state and len(state) > 1:
            del state[node]
            found = watch.remove(node)
        else:
            continue
        disordered = {n for n, entries in state.items() if not ordered_list(n, entries)}
        if not disordered:
            assert names(found) == names(violations(state))
        assert watch.lists == state


def test_a_large_good_ring_needs_one_full_look() -> None:
    order = list(range(0, 3000, 3))
    watch = Watch()
    assert not watch.begin({n: tuple(order[(i + s) % 1000] for s in (1, 2, 3)) for i, n in enumerate(order)})
    for n in order[::7]:
        listed = watch.lists[n]
        assert not watch.update(n, (listed[0], listed[1]))
    assert watch.full_checks == 1
    assert watch.orphaned_by(3) is False
    watch.update(0, (3,))
    assert watch.orphaned_by(3) is True


def test_examples_of_each_violation() -> None:
    assert not violations({0: (1,), 1: (2,), 2: (0,)})
    assert names(violations({0: (1, 2), 1: (0,), 2: (3,), 3: (2,)})) == {"AtMostOneRing"}
    assert names(violations({0: (5,), 1: (2,), 2: (0,), 3: (1,)})) >= {"ConnectedAppendages"}
    assert names(violations({0: (9,), 1: (9,)})) == {"AtLeastOneRing", "ConnectedAppendages"}
    assert names(violations({0: (2,), 1: (0,), 2: (1,)})) == {"OrderedRing"}
    assert names(violations({0: (2, 1), 1: (2, 0), 2: (0, 1)})) == {"OrderedSuccessorLists"}
    assert not violations({7: ()})
    assert not violations({7: (8,)}), "the last one alive is a ring"


def test_principals_are_those_that_nobody_skips() -> None:
    state = {0: (1, 2), 1: (2, 3), 2: (3, 0), 3: (0, 1)}
    assert principals(state) == {0, 1, 2, 3}
    assert principals({**state, 0: (2, 3)}) == {0, 2, 3}
    assert principals(state, in_flight=[(3, 2)]) == {2, 3}


def test_ideal_means_every_list_and_predecessor() -> None:
    state = {0: (1, 2), 1: (2, 0), 2: (0, 1)}
    before: dict[int, int | None] = {0: 2, 1: 0, 2: 1}
    assert ideal(state, before, 2)
    assert not ideal(state, {**before, 1: 2}, 2)
    assert not ideal({**state, 0: (1,)}, before, 2)
    assert ideal({4: ()}, {4: None}, 2)
