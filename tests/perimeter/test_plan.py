"""Plans as values: what they refuse to be, rotation, files, secrets."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.perimeter import Flow, Pair, Plan, draw_key, from_json, inner, redact, to_json

from .craft import KEY, NOW, OLD_KEY, SERVLET4, SERVLET6, plan


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Pair("198.18.0.1", 0, NOW),
        lambda: Pair("198.18.0.1", 1 << 32, NOW),
        lambda: Pair("198.18.0.01", 1, NOW),
        lambda: Pair("2001:DB8::1", 1, NOW),
        lambda: Pair("servlet.example", 1, NOW),
        lambda: Flow("198.18.0.0/24", "tcp"),
        lambda: Flow("198.18.0.1/24", "tcp", 7443),
        lambda: Flow("198.18.0.0/24", "icmp", 7443),
        lambda: Flow("198.18.0.0/24", "udp", 53),
        lambda: Flow("198.18.0.0/24", "tcp", 70000),
        lambda: Flow("198.18.0.0/24", "tcp", 7443, why='"; drop'),
        lambda: Plan("wiki", 1, ()),
        lambda: Plan("Wiki!", 1, ("198.19.1.2",)),
        lambda: Plan("wiki", 1, ("198.19.1.2",), too_big_per_s=-1),
        lambda: Plan("wiki", 1, ("198.19.1.2",), pair_mbit=0),
        lambda: Plan("wiki", 1, ("198.19.1.2",), schema=2),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        wrong()  # type: ignore[operator]


def test_rotation_admits_the_new_pair_before_the_old_one_ends() -> None:
    start = Plan("wiki", 1, ("198.19.1.2",), pairs=(Pair(SERVLET4, OLD_KEY, NOW + 9999),))
    both = start.admit(Pair(SERVLET4, KEY, NOW + 9999)).retire(SERVLET4, NOW + 30, keep=KEY)
    assert {(pair.key, pair.not_after) for pair in both.pairs} == {(OLD_KEY, NOW + 30), (KEY, NOW + 9999)}
    assert both.version == start.version + 2
    after = both.prune(NOW + 30)
    assert [pair.key for pair in after.pairs] == [KEY]
    assert after.prune(NOW + 31) is after


def test_burning_a_servlet_ends_all_its_pairs_and_no_others() -> None:
    burnt = plan().retire(SERVLET4, NOW)
    assert burnt.live(NOW, 4) == []
    assert set(burnt.live(NOW, 6)) == set(plan().live(NOW, 6))


def test_keys_never_show_in_what_people_and_logs_see() -> None:
    shown = repr(plan()) + str(plan().pairs) + msgspec.json.encode(redact(plan())).decode()
    for key in (KEY, OLD_KEY):
        assert str(key) not in shown
        assert f"{key:x}" not in shown


def test_the_file_says_what_the_plan_says_and_refuses_anything_else() -> None:
    assert from_json(to_json(plan())) == plan()
    for wrong in (b"", b"{}", b"[]", to_json(plan()).replace(b'"site"', b'"sight"'), to_json(plan())[:-5], b"[" * 99999):
        with pytest.raises(ValueError, match="not a filter plan"):
            from_json(wrong)


@given(seed=st.integers())
def test_drawn_keys_are_keys(seed: int) -> None:
    assert 0 < draw_key(random.Random(seed)) < 1 << 32


def test_a_key_is_never_zero() -> None:
    class Stubborn:
        answers = iter((0, 0, 77))

        def getrandbits(self, k: int, /) -> int:
            return next(self.answers)

    assert draw_key(Stubborn()) == 77


@pytest.mark.parametrize("family", [4, 6])
def test_inner_addresses_lie_in_the_sites_prefix_and_depend_on_its_secret(family: int) -> None:
    from ipaddress import ip_address, ip_network

    secret = bytes(range(32))
    network = ip_network(inner.prefix(secret, "wiki", family))
    addresses = [inner.gateway(secret, "wiki", family), *(inner.servlet(secret, "wiki", f"n{i}", family) for i in range(8))]
    assert all(ip_address(address) in network for address in addresses)
    assert len(set(addresses)) == 9
    assert not network.overlaps(ip_network(inner.prefix(b"x" * 32, "wiki", family)))
    with pytest.raises(ValueError, match="16 bytes"):
        inner.gateway(b"short", "wiki", family)


def test_networks_that_overlap_are_written_once() -> None:
    overlapping = plan(networks=("198.19.0.0/16", "198.19.1.0/24", "2001:db8:19::/48"))
    assert [str(each) for each in overlapping.protected(4)] == ["198.19.0.0/16"]
    assert [str(each) for each in overlapping.protected(6)] == ["2001:db8:19::/48"]
    assert SERVLET6 not in str(overlapping.protected(6))
