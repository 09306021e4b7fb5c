"""The plan for routers that still speak iptables: two files, for ``iptables-restore`` and ``ip6tables-restore``.

An export, not what Polder applies itself: keys have no timeout here, so the file must be rendered again when pairs change,
and the two families are not swapped in one step. ``--noflush`` keeps other rules. The rules stand in table ``raw``, which
comes behind defragmentation where connection tracking is loaded: load ``iptable_raw`` (``ip6table_raw``) with
``raw_before_defrag=1`` to refuse fragments as such; otherwise they are put together first and judged as whole packets.
"""

from __future__ import annotations

import zlib

from polder.perimeter.nftables import table
from polder.perimeter.packet import Place
from polder.perimeter.plan import GRE, GRE_FLAGS_KEY, GRE_PROTOCOLS, Flow, Plan

_MOST_PER_S = 10_000
"""The limit match counts no faster."""
_WORD = 0xFFFFFFFF
_GRE_WORDS = ",".join(f"{GRE_FLAGS_KEY << 16 | protocol:#010x}" for protocol in GRE_PROTOCOLS)


def render(plan: Plan, now: float, family: int, place: Place = Place.ROUTER) -> str:
    """Text for ``iptables-restore --noflush`` (family 4) or ``ip6tables-restore --noflush`` (6). Holds the keys: a secret."""
    guard, jumps = chains(plan.site)
    rules = [*_gre(plan, now, family, guard), *_flows(plan, family, guard), *_icmp(plan, now, family, guard, place)]
    return "\n".join(
        [
            f"# Polder: perimeter of site {plan.site}, plan {plan.version}, IPv{family}. Secret: it holds GRE keys.",
            "# Keys do not expire by themselves here: render again after every change of the plan.",
            "*raw",
            f":{guard} - [0:0]",
            f":{jumps} - [0:0]",
            f"-F {guard}",
            f"-F {jumps}",
            *(f"-A {jumps} -d {network} -g {guard}" for network in plan.protected(family)),
            *rules,
            f"-A {guard} -j DROP",
            "COMMIT",
            f"# Once: ip{'6' if family == 6 else ''}tables -t raw -I PREROUTING -j {jumps}",
            "",
        ]
    )


def chains(site: str) -> tuple[str, str]:
    """Chain names (at most 28 characters): the guard, and the one that sends protected addresses to it."""
    short = table(site)[len("polder_") :]
    if len(short) > 18:
        short = short[:10] + f"{zlib.crc32(short.encode()):08x}"
    return f"polder_{short}", f"polder_{short}_in"


def _gre(plan: Plan, now: float, family: int, guard: str) -> list[str]:
    """``u32`` reads words at offsets from the IP header: header length, fragment field, GRE word, key.

    https://manpages.debian.org/iptables-extensions: ``A=V``; ``&`` masks, ``>>`` shifts; comma separates values.
    """
    rules = []
    for pair in plan.live(now, family):
        for edge in plan.edges_of(family):
            if family == 4:
                match = f"0>>24=0x45 && 4&0x3FFF=0 && 20={_GRE_WORDS} && 24={pair.key:#010x}"
            else:
                match = f"4>>8&0xFF={GRE} && 40={_GRE_WORDS} && 44={pair.key:#010x}"
            rules.append(f'-A {guard} -s {pair.source} -d {edge} -p {GRE} -m u32 --u32 "{match}" -j ACCEPT')
    return rules


def _flows(plan: Plan, family: int, guard: str) -> list[str]:
    return [f"-A {guard} {_match(flow, family)} -j ACCEPT" for flow in plan.flows_of(family)]


def _match(flow: Flow, family: int) -> str:
    number = 6 if flow.protocol == "tcp" else 17
    direct = "0>>24=0x45 && 4&0x3FFF=0" if family == 4 else f"4>>8&0xFF={number}"
    words = [f'-s {flow.source} -p {flow.protocol} -m u32 --u32 "{direct}" -m {flow.protocol}']
    words += [f"--sport {flow.source_port}"] if flow.source_port else []
    words += [f"--dport {flow.dest_port}"] if flow.dest_port else []
    words += ["--tcp-flags ACK ACK"] if flow.established else []
    # Table raw stands in front of connection tracking: ``stateful`` cannot be said here; the ACK rule remains.
    return " ".join(words)


def _icmp(plan: Plan, now: float, family: int, guard: str, place: Place) -> list[str]:
    rules = []
    peers = plan.peers(now, family)
    rate = min(plan.too_big_per_s, _MOST_PER_S)
    limit = f"-m limit --limit {rate}/second --limit-burst {rate} -j ACCEPT"
    for edge in plan.edges_of(family) if plan.too_big_per_s else []:
        for peer in peers:
            address, mask = int(peer.network_address), int(peer.netmask)
            if family == 4:
                match = f"0>>24=0x45 && 4&0x3FFF=0 && 20>>16=0x0304 && 44&{mask:#010x}={address:#010x}"
                rules.append(f'-A {guard} -d {edge} -p icmp -m u32 --u32 "{match}" {limit}')
            else:
                words = " && ".join(
                    f"{72 + 4 * i}&{mask >> (96 - 32 * i) & _WORD:#010x}={address >> (96 - 32 * i) & _WORD:#010x}"
                    for i in range(4)
                )
                match = f"4>>8&0xFF=58 && 40>>24=2 && {words}"
                rules.append(f'-A {guard} -d {edge} -p icmpv6 -m u32 --u32 "{match}" {limit}')
    if place is Place.HOST and family == 6:
        rules += [
            f'-A {guard} -p icmpv6 -m u32 --u32 "4>>8&0xFF=58" -m hl --hl-eq 255 -m icmp6 --icmpv6-type {kind} -j ACCEPT'
            for kind in ("neighbour-solicitation", "neighbour-advertisement")
        ]
    return rules
