"""What a site's filter must admit, as a value.

A filter is simple on purpose (WebSOS §II-B: "a filter router needs no cryptography and no overlay state"). It knows pairs
of a servlet's address and a 32-bit GRE key (RFC 2890), and the few flows that the site itself began. Everything else that
goes to the protected addresses is dropped, by whichever router renders the plan: see ``nftables``, ``iptables``,
``flowspec``; ``packet.rule`` says the same about one packet in plain Python.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Any, Protocol

import msgspec

from polder.model.ids import parse_name

Network = IPv4Network | IPv6Network

GRE = 47
GRE_FLAGS_KEY = 0x2000
"""RFC 2890 §2 with the K bit alone: no checksum, no sequence number, version 0."""
GRE_PROTOCOLS = (0x0800, 0x86DD)
"""What may stand inside: IPv4 and IPv6."""
SCHEMA = 1


class Chance(Protocol):
    """The part of ``random.Random`` that drawing a key needs; shells pass ``secrets.SystemRandom()``."""

    def getrandbits(self, k: int, /) -> int: ...


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """One servlet that may send GRE: its outer ``source`` address, its ``key`` (1 … 2^32 − 1), until ``not_after``.

    ``not_after`` is in Unix seconds. A servlet may have two pairs at once: the old and the new one of a rotation.
    The key is a secret: ``repr`` withholds it.
    """

    source: str
    key: int
    not_after: int

    def __post_init__(self) -> None:
        _canonical(self.source, str(ip_address(self.source)))
        if not 0 < self.key < 1 << 32:
            raise ValueError("a GRE key is a number from 1 to 4294967295")

    def __repr__(self) -> str:
        return f"Pair(source={self.source!r}, not_after={self.not_after}, key withheld)"


class Flow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """Packets outside GRE that may pass: mostly answers to what the site itself began.

    ``source`` is a network in CIDR form. With ``established`` only TCP segments with ACK pass, so nobody can open a
    connection through it, yet who knows an admitted source and port can still send such segments. ``stateful`` closes
    that where the filter sees both directions: the packet must belong to a connection that the inside began.
    """

    source: str
    protocol: str = "tcp"
    source_port: int | None = None
    dest_port: int | None = None
    established: bool = True
    stateful: bool = False
    why: str = ""

    def __post_init__(self) -> None:
        _canonical(self.source, str(ip_network(self.source)))
        if self.protocol not in {"tcp", "udp"}:
            raise ValueError(f"{self.protocol!r} is not a protocol that a flow may have: tcp or udp")
        if self.protocol == "udp" and self.established:
            raise ValueError("UDP has no ACK: write established = false, and stateful = true where the filter can")
        for port in (self.source_port, self.dest_port):
            if port is not None and not 0 < port < 1 << 16:
                raise ValueError(f"{port} is not a port")
        if not (self.source_port or self.dest_port):
            raise ValueError("a flow names a source port or a destination port")
        if len(self.why) > 80 or not self.why.isprintable() or '"' in self.why:
            raise ValueError("the reason of a flow is at most 80 printable characters without quotes")


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a filter for one site must know.

    ``edges`` are the outer addresses of the site's gateway, where GRE may go; ``networks`` (CIDR) are further addresses
    of the site that are shut as well. ``too_big_per_s`` bounds the ICMP "too big" messages about packets to servlets and
    flows (0 shuts them out), ``pair_mbit`` caps what one admitted source may send in megabits per second (``None``: no
    cap). ``version`` grows with every change.
    """

    site: str
    version: int
    edges: tuple[str, ...]
    networks: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    flows: tuple[Flow, ...] = ()
    too_big_per_s: int = 10
    pair_mbit: int | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        parse_name(self.site)
        if not self.edges:
            raise ValueError("a plan protects at least one address: give the gateway's outer address as edge")
        for edge in self.edges:
            _canonical(edge, str(ip_address(edge)))
        for network in self.networks:
            _canonical(network, str(ip_network(network)))
        if self.too_big_per_s < 0 or (self.pair_mbit is not None and self.pair_mbit <= 0):
            raise ValueError("rates are positive")
        if self.schema != SCHEMA:
            raise ValueError(f"plan of schema {self.schema}, this Polder speaks {SCHEMA}: install the same version on both sides")

    def protected(self, family: int) -> list[Network]:
        """All shut networks of address family 4 or 6, edges included, without overlaps, in order."""
        everything = [ip_network(each) for each in (*self.edges, *self.networks)]
        return collapse(each for each in everything if each.version == family)

    def edges_of(self, family: int) -> list[str]:
        """The gateway's addresses of family 4 or 6."""
        return [edge for edge in self.edges if ip_address(edge).version == family]

    def live(self, now: float, family: int) -> list[Pair]:
        """Pairs of one family that have not expired at ``now`` (Unix seconds)."""
        return [pair for pair in self.pairs if pair.not_after > now and ip_address(pair.source).version == family]

    def flows_of(self, family: int) -> list[Flow]:
        """Flows whose source is of family 4 or 6."""
        return [flow for flow in self.flows if ip_network(flow.source).version == family]

    def peers(self, now: float, family: int) -> list[Network]:
        """Networks of one family that the site speaks with: live servlets and the sources of its flows."""
        pairs = [ip_network(pair.source) for pair in self.live(now, family)]
        return collapse([*pairs, *(ip_network(flow.source) for flow in self.flows_of(family))])

    def admit(self, pair: Pair) -> Plan:
        """The plan with ``pair`` added; a pair with the same source and key is replaced."""
        others = [each for each in self.pairs if (each.source, each.key) != (pair.source, pair.key)]
        return self._with_pairs([*others, pair])

    def retire(self, source: str, until: int, *, keep: int | None = None) -> Plan:
        """The plan in which ``source``'s pairs, but the one with key ``keep``, end at ``until`` (Unix seconds) at the latest.

        Rotation admits the new pair first and then retires the old one by a grace period; burning a servlet is
        ``retire(source, until=now)``.
        """
        return self._with_pairs(
            msgspec.structs.replace(pair, not_after=min(pair.not_after, until))
            if pair.source == source and pair.key != keep
            else pair
            for pair in self.pairs
        )

    def prune(self, now: float) -> Plan:
        """The plan without pairs that ended before ``now``; the same plan when there are none."""
        left = [pair for pair in self.pairs if pair.not_after > now]
        return self if len(left) == len(self.pairs) else self._with_pairs(left)

    def with_flows(self, flows: Iterable[Flow]) -> Plan:
        """The plan with other flows; the same plan when nothing changes."""
        ordered = tuple(sorted(set(flows), key=str))
        return self if ordered == self.flows else msgspec.structs.replace(self, flows=ordered, version=self.version + 1)

    def _with_pairs(self, pairs: Iterable[Pair]) -> Plan:
        ordered = tuple(sorted(pairs))
        return self if ordered == self.pairs else msgspec.structs.replace(self, pairs=ordered, version=self.version + 1)


def draw_key(rng: Chance) -> int:
    """A fresh 32-bit GRE key. Zero is left out: a packet without randomness must not hit."""
    while not (key := rng.getrandbits(32)):
        pass
    return key


def to_json(plan: Plan) -> bytes:
    """The file ``filter.json``: pretty, and secret, for it holds the keys (mode 0600)."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n"


def from_json(data: bytes) -> Plan:
    """A plan from its file; raises ``ValueError`` with the place of the mistake."""
    try:
        return msgspec.json.decode(data, type=Plan)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not a filter plan: {error}") from error


def redact(plan: Plan) -> dict[str, Any]:
    """The plan as plain values without keys, for ``--json`` and logs."""
    plain: dict[str, Any] = msgspec.to_builtins(plan)
    for pair in plain["pairs"]:
        pair["key"] = "withheld"
    return plain


def collapse(networks: Iterable[Network]) -> list[Network]:
    """Sorted networks of one family without overlaps."""
    return list(collapse_addresses(networks))  # type: ignore[type-var]


def _canonical(given: str, right: str) -> None:
    """One spelling per address, so that equal plans are equal bytes."""
    if given != right:
        raise ValueError(f"write {given!r} as {right!r}")
