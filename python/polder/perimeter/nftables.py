"""The plan for nftables: one table of its own, replaced in one transaction.

The chain hooks ``prerouting`` at priority -450, in front of the kernel's defragmentation (-400): a fragment is seen as
one and refused, whoever loaded connection tracking. A flood is dropped before routing and connection tracking spend
anything on it. On a router and on the gateway itself ``prerouting`` sees the same packets.

Replacing keeps the named counters and swaps rules and pairs in one netlink transaction: at every moment either the old
or the new plan is in force, never none. One trap is avoided on the way to a guard: the kernel looks up sets in the newest
generation while a packet still walks the old rules, so a set that a replaced rule refers to is empty for that packet. A
miss must therefore never open: what sends packets to a guard compares addresses without a set. The pairs' set is named and
keeps its elements, so nothing is dropped either (``tests/perimeter/test_kernel.py`` streams while it swaps). Pairs carry
their remaining life as an element timeout: when the control plane dies, old keys die on time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network

from polder.perimeter.packet import Place
from polder.perimeter.plan import GRE_FLAGS_KEY, GRE_PROTOCOLS, Flow, Pair, Plan, collapse

COUNTERS = ("gre", "flows", "too_big", "refused")
"""Named counters of the table: packets and bytes that passed as GRE, flow or ICMP, and that were refused."""

MAX_LIFE_S = 30 * 24 * 3600
"""Longest timeout that is written: nft counts milliseconds in 32 bits, 49 days. A plan that is not rendered again for 30 days
shuts by itself."""
_FAMILY = {4: "ip", 6: "ip6"}
_KINDS = ((4, "ipv4_addr"), (6, "ipv6_addr"))
_CHAINS = """\
add chain inet {t} arrive {{ type filter hook prerouting priority -450; policy accept; }}
add chain inet {t} tracked {{ type filter hook prerouting priority -150; policy accept; }}
add chain inet {t} tracked4
add chain inet {t} tracked6
add chain inet {t} guard4
add chain inet {t} guard6
add chain inet {t} big4
add chain inet {t} big6
add chain inet {t} big"""


def table(site: str) -> str:
    """Name of the site's table in family ``inet``: nftables names take no dots and dashes as they stand."""
    return "polder_" + "".join(c if c.isalnum() else {"_": "__", "-": "_m", ".": "_d"}[c] for c in site)


def render(plan: Plan, now: float, place: Place = Place.ROUTER, trusted: Sequence[str] = ()) -> str:
    """Text for ``nft -f`` that puts ``plan`` in force, whatever plan of this site was before. Holds the keys: a secret.

    ``trusted`` names network interfaces of the inside whose packets are let be.
    """
    name = table(plan.site)
    parts = [
        f"# Polder: perimeter of site {plan.site}, plan {plan.version}. Secret: it holds GRE keys.",
        f"add table inet {name}",
        _CHAINS.format(t=name),
        f"flush table inet {name}",
        *(f"add counter inet {name} {counter}" for counter in COUNTERS),
        *(
            f"add set inet {name} rate{family} {{ type {kind}; size 65535; flags dynamic,timeout; timeout 60s; }}"
            for family, kind in _KINDS
        ),
        *(line for family in (4, 6) for line in _pairs(name, family, plan.live(now, family), now)),
        f"table inet {name} {{",
        *_big(plan),
        *_too_big(plan, now, 4),
        *_too_big(plan, now, 6),
        *_arrive(plan, place, trusted),
        *_guard(plan, 4, place),
        *_guard(plan, 6, place),
        *_tracked(plan, place, trusted),
        "}",
    ]
    return "\n".join(parts) + "\n"


def remove(site: str) -> str:
    """Text for ``nft -f`` that takes the site's filter away, if there is one."""
    return f"add table inet {table(site)}\ndelete table inet {table(site)}\n"


def restore(site: str, listed: str | None) -> str:
    """Text that puts back what ``nft list table`` had said (``None``: there was no table)."""
    return remove(site) + (listed or "")


def _pairs(name: str, family: int, pairs: Iterable[Pair], now: float) -> list[str]:
    """The set of {source, key}. ``flush`` comes before ``add`` in the same transaction."""
    kind = f"typeof {_FAMILY[family]} saddr . @th,32,32; flags timeout;"
    life = {(pair.source, pair.key): min(MAX_LIFE_S, max(1, int(pair.not_after - now))) for pair in pairs}
    elements = ", ".join(f"{source} . {key:#010x} timeout {seconds}s" for (source, key), seconds in sorted(life.items()))
    return [
        f"add set inet {name} pairs{family} {{ {kind} }}",
        f"flush set inet {name} pairs{family}",
        *([f"add element inet {name} pairs{family} {{ {elements} }}"] if elements else []),
    ]


def _arrive(plan: Plan, place: Place, trusted: Sequence[str]) -> list[str]:
    lines = ["    chain arrive {"]
    inside = (*trusted, "lo") if place is Place.HOST else tuple(trusted)
    lines += [f"        iifname {_interface(each)} return" for each in inside]
    for family in (4, 6):
        lines += [f"        {_FAMILY[family]} daddr {network} jump guard{family}" for network in plan.protected(family)]
    return [*lines, "    }"]


def _guard(plan: Plan, family: int, place: Place) -> list[str]:
    """Everything in here goes to a protected address; what no rule accepts is counted and dropped."""
    ip = _FAMILY[family]
    lines = [f"    chain guard{family} {{"]
    if family == 4:
        # No options and no fragment, first or later: offset or MF set (RFC 791 §3.1).
        lines.append("        ip hdrlength != 5 counter name refused drop")
        lines.append("        ip frag-off & 0x3fff != 0 counter name refused drop")
    for edge in plan.edges_of(family):
        lines += [f"        {ip} daddr {edge} {rule}" for rule in (*_cap(plan, family), *_gre(family))]
    lines += [f"        {match} counter name flows accept" for match in _flows(plan.flows_of(family), family)]
    # ``@th,offset,8 >= 0`` is true where the packet has that byte: here the last one of the quoted destination address.
    icmp = "ip protocol 1 icmp type destination-unreachable icmp code frag-needed @th,216,8 >= 0 jump big4"
    icmpv6 = "ip6 nexthdr 58 icmpv6 type packet-too-big @th,376,8 >= 0 jump big6"
    lines += [f"        {ip} daddr {edge} {icmp if family == 4 else icmpv6}" for edge in plan.edges_of(family)]
    if place is Place.HOST and family == 6:
        for kind in ("nd-neighbor-solicit", "nd-neighbor-advert"):
            lines.append(f"        ip6 nexthdr 58 ip6 hoplimit 255 icmpv6 type {kind} @th,56,8 >= 0 accept")
    return [*lines, "        counter name refused drop", "    }"]


def _gre(family: int) -> list[str]:
    """Servlets' packets, one rule per kind of packet inside."""
    return [f"{match} counter name gre accept" for match in _pair_matches(family)]


def _pair_matches(family: int) -> list[str]:
    """GRE directly behind the IP header, K bit alone, IP inside, {source, key} known. ``@th`` fails on a header cut short."""
    # ``ip6 nexthdr`` is the first next-header field: hop-by-hop, routing, fragment headers are not 47.
    direct = "ip protocol 47" if family == 4 else "ip6 nexthdr 47"
    pair = f"{_FAMILY[family]} saddr . @th,32,32 @pairs{family}"
    return [f"{direct} @th,0,32 {GRE_FLAGS_KEY << 16 | protocol:#010x} {pair}" for protocol in GRE_PROTOCOLS]


def _cap(plan: Plan, family: int) -> list[str]:
    """Per admitted source: more than its cap is refused, so that a servlet that was taken over cannot fill the link."""
    if plan.pair_mbit is None:
        return []
    rate = f"limit rate over {plan.pair_mbit * 125} kbytes/second burst {max(64, plan.pair_mbit * 25)} kbytes"
    meter = f"update @rate{family} {{ {_FAMILY[family]} saddr {rate} }} counter name refused drop"
    return [f"{match} {meter}" for match in _pair_matches(family)]


def _flows(flows: Iterable[Flow], family: int) -> list[str]:
    """One match per shape, its sources in one set."""
    shapes: dict[tuple[str, int | None, int | None, bool], list[str]] = {}
    for flow in flows:
        shapes.setdefault((flow.protocol, flow.source_port, flow.dest_port, flow.established), []).append(flow.source)
    return [
        _flow(family, protocol, sport, dport, established, sources)
        for (protocol, sport, dport, established), sources in sorted(shapes.items(), key=str)
    ]


def _flow(family: int, protocol: str, sport: int | None, dport: int | None, established: bool, sources: list[str]) -> str:
    merged = collapse(ip_network(source) for source in sources)
    ip = _FAMILY[family]
    direct = f"ip protocol {protocol}" if family == 4 else f"ip6 nexthdr {protocol}"
    words = [direct, f"{ip} saddr {_set(map(str, merged))}"]
    words += [f"{protocol} sport {sport}"] if sport else []
    words += [f"{protocol} dport {dport}"] if dport else []
    words += ["tcp flags & ack == ack"] if established else []
    # The last field of the header: a load beyond the packet's end fails, so this says "the whole header is there".
    words.append("tcp urgptr >= 0" if protocol == "tcp" else "udp checksum >= 0")
    return " ".join(words)


def _too_big(plan: Plan, now: float, family: int) -> list[str]:
    """ICMP "too big" whose quoted packet went to somebody we speak with: the destination address in the quoted header."""
    lines = [f"    chain big{family} {{"]
    # ICMP header, then the quoted IP header: its destination stands at byte 8 + 16 (IPv4) or 8 + 24 (IPv6).
    offset, width = (192, 32) if family == 4 else (256, 128)
    for peer in plan.peers(now, family) if plan.too_big_per_s else []:
        bits = f"{int(peer.network_address) >> (width - peer.prefixlen):#x}"
        lines.append(f"        @th,{offset},{peer.prefixlen} {bits} goto big" if peer.prefixlen else "        goto big")
    return [*lines, "        counter name refused drop", "    }"]


def _big(plan: Plan) -> list[str]:
    rate = max(1, plan.too_big_per_s)
    return [
        "    chain big {",
        f"        limit rate {rate}/second burst {rate} packets counter name too_big accept",
        "        counter name refused drop",
        "    }",
    ]


def _tracked(plan: Plan, place: Place, trusted: Sequence[str]) -> list[str]:
    """Behind connection tracking: what passed ``arrive`` only as a stateful flow must belong to a connection begun inside."""
    families = [family for family in (4, 6) if any(flow.stateful for flow in plan.flows_of(family))]
    inside = (*trusted, "lo") if place is Place.HOST else tuple(trusted)
    lines = ["    chain tracked {"]
    lines += [f"        iifname {_interface(each)} return" for each in inside if families]
    lines += [
        f"        {_FAMILY[family]} daddr {network} jump tracked{family}"
        for family in families
        for network in plan.protected(family)
    ]
    lines.append("    }")
    for family in families:
        protocol = "ip protocol" if family == 4 else "ip6 nexthdr"
        stateless = _flows([flow for flow in plan.flows_of(family) if not flow.stateful], family)
        lines.append(f"    chain tracked{family} {{")
        lines += [f"        {match} return" for match in (f"{protocol} 47", f"{protocol} {1 if family == 4 else 58}", *stateless)]
        lines += ["        ct state established return", "        counter name refused drop", "    }"]
    return lines


def _set(items: Iterable[str]) -> str:
    listed = list(items)
    return listed[0] if len(listed) == 1 else "{ " + ", ".join(listed) + " }"


def _interface(name: str) -> str:
    if not (0 < len(name) < 16) or not all(c.isalnum() or c in "._-@" for c in name):
        raise ValueError(f"{name!r} is not the name of a network interface")
    return f'"{name}"'
