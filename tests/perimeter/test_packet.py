"""What the plan says about single packets, each rule by an example and by what is wrong with it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.perimeter import Flow, Place, Ruling, rule

from . import craft
from .craft import EDGE4, EDGE6, KEY, NOW, OLD_KEY, SERVLET4, SERVLET6, gre, plan, tcp, too_big, udp

FAMILIES = [(SERVLET4, EDGE4), (SERVLET6, EDGE6)]


def ruling(packet: craft.Packet, at: float = NOW, place: Place = Place.ROUTER) -> Ruling:
    return rule(plan(), packet.bytes(), at, place)


@pytest.mark.parametrize(("source", "edge"), FAMILIES)
@pytest.mark.parametrize("inner", [craft.INNER4, craft.INNER6])
def test_a_servlet_with_its_key_passes_with_either_family_inside(source: str, edge: str, inner: bytes) -> None:
    assert ruling(gre(source, edge, KEY, inner)) is Ruling.GRE


@pytest.mark.parametrize(("source", "edge"), FAMILIES)
def test_both_keys_of_a_rotation_pass_until_each_ends(source: str, edge: str) -> None:
    old, new = gre(source, edge, OLD_KEY), gre(source, edge, KEY)
    assert [ruling(old, NOW + 59), ruling(new, NOW + 59)] == [Ruling.GRE, Ruling.GRE]
    assert [ruling(old, NOW + 60), ruling(new, NOW + 60)] == [Ruling.SHUT, Ruling.GRE]


@pytest.mark.parametrize(("source", "edge"), FAMILIES)
@given(key=st.integers(0, 2**32 - 1).filter(lambda key: key not in {KEY, OLD_KEY}))
def test_any_other_key_is_refused(source: str, edge: str, key: int) -> None:
    assert ruling(gre(source, edge, key)) is Ruling.SHUT


@pytest.mark.parametrize(("source", "edge"), FAMILIES)
@given(flags=st.integers(0, 2**16 - 1).filter(lambda flags: flags != 0x2000))
def test_any_other_flags_are_refused(source: str, edge: str, flags: int) -> None:
    assert ruling(gre(source, edge, KEY, flags=flags)) is Ruling.SHUT


@pytest.mark.parametrize("name", craft.EXTENSIONS)
def test_ipv6_extension_headers_are_refused_alone_and_nested(name: str) -> None:
    header = craft.EXTENSIONS[name]
    for chain in ((header,), (header, header), (craft.EXTENSIONS["hop-by-hop"], header)):
        assert ruling(replace(gre(SERVLET6, EDGE6, KEY), extensions=chain)) is Ruling.SHUT


@pytest.mark.parametrize("fragment", [0x2000, 0x2001, 1, 0x1FFF])
def test_ipv4_fragments_are_refused_first_and_later(fragment: int) -> None:
    assert ruling(replace(gre(SERVLET4, EDGE4, KEY), fragment=fragment)) is Ruling.SHUT
    assert ruling(replace(gre(SERVLET4, EDGE4, KEY), fragment=0x4000)) is Ruling.GRE


def test_ipv4_options_are_refused() -> None:
    assert ruling(replace(gre(SERVLET4, EDGE4, KEY), options=b"\1\1\1\1")) is Ruling.SHUT


def test_gre_goes_to_the_edge_only() -> None:
    assert ruling(gre(SERVLET4, craft.SHUT4, KEY)) is Ruling.SHUT
    assert ruling(gre(SERVLET4, craft.FREE4, KEY)) is Ruling.NOT_OURS


def test_answers_pass_and_openings_do_not() -> None:
    node = "198.18.9.1"
    assert ruling(tcp(node, EDGE4, 7443, 40000, 0x12)) is Ruling.FLOW
    assert ruling(tcp(node, EDGE4, 7443, 40000, 0x02)) is Ruling.SHUT
    assert ruling(tcp(node, EDGE4, 7444, 40000, 0x12)) is Ruling.SHUT
    assert ruling(tcp("198.18.16.1", EDGE4, 7443, 40000, 0x12)) is Ruling.SHUT
    assert ruling(udp("198.18.4.4", EDGE4, 53, 1)) is Ruling.FLOW


def test_a_stateful_flow_is_left_to_connection_tracking() -> None:
    stateful = plan(flows=(Flow("198.18.9.1/32", "tcp", 7443, stateful=True),))
    assert rule(stateful, tcp("198.18.9.1", EDGE4, 7443, 40000, 0x10).bytes(), NOW) is Ruling.TRACKED


def test_too_big_passes_only_about_packets_to_somebody_we_speak_with() -> None:
    assert ruling(too_big("198.18.1.1", EDGE4, SERVLET4)) is Ruling.TOO_BIG
    assert ruling(too_big("2001:db8:18:1::1", EDGE6, SERVLET6)) is Ruling.TOO_BIG
    assert ruling(too_big("198.18.1.1", EDGE4, "198.18.1.1")) is Ruling.SHUT
    assert ruling(too_big("198.18.1.1", EDGE4, SERVLET4, kind=11)) is Ruling.SHUT


def test_neighbour_discovery_passes_on_the_gateway_itself_and_from_the_link_only() -> None:
    ask = craft.Packet("2001:db8:19:1::1", EDGE6, 58, b"\x87" + b"\0" * 23, hop_limit=255)
    assert ruling(ask, place=Place.HOST) is Ruling.NEIGHBOUR
    assert ruling(ask) is Ruling.SHUT
    assert ruling(replace(ask, hop_limit=254), place=Place.HOST) is Ruling.SHUT


@given(data=st.binary(max_size=120))
def test_any_bytes_get_a_ruling(data: bytes) -> None:
    assert rule(plan(), data, NOW) in set(Ruling)


def test_the_generator_meets_every_ruling() -> None:
    """The comparisons with real filters mean something only if the packets reach every rule."""
    rng = random.Random(7)
    seen = {rule(plan(), craft.draw(rng).bytes(), NOW, Place.HOST) for _ in range(3000)}
    assert seen == set(Ruling) - {Ruling.TRACKED}
