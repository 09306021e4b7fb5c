"""Reserved bandwidth on a link: ``tc`` HTB serves, nftables says whose packets are within their reservation.

```text
1:  HTB ── 1:1 the link's rate ─┬─ 1:3   RSVP's own messages, first
                                ├─ 1:10… a class per reservation, next: its rate for sure, more while the link is idle
                                └─ 1:2   everything else, last: what is left, never less than a hundredth
```

A flow's packets within its rate get their class by ``meta priority``; those beyond keep the default class, so that excess is best effort
(RFC 2211 §7) and does not delay what is within. The kernel's byte limiter lets through what a second brings beside the bucket before it
finds an excess (``tokens_max`` in ``nft_limit.c``); until then the class's own queue, which holds one bucket, bounds the flow's delay,
and what overflows it is lost: the flow suffers, nobody else. Needs HTB, pfifo, bfifo and nf_tables; no ``police``, ``fw`` or ``flower``.
Fragments behind the first carry no ports and are best effort.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from polder.host.commands import HostError, run
from polder.host.messages import FlowRelease, FlowReserve, FlowsCarried, LinkShape

TABLE = "polder_rsvp"
_RSVP = 46
_IP_ROUTER_ALERT, _IP_PKTINFO, _IP_HDRINCL = 5, 8, 3
_IPV6_ROUTER_ALERT, _IPV6_ROUTER_ALERT_ISOLATE, _IPV6_HDRINCL = 22, 30, 36
_ALERT_OF_RSVP = 1
"""Value of the Router Alert option of IPv6 that means RSVP (RFC 2711 §2.1)."""
_TOLD6 = ((socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1), (socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1))
_SOCKETS = (
    (
        "4",
        socket.AF_INET,
        _RSVP,
        (
            (socket.IPPROTO_IP, _IP_HDRINCL, 1),
            (socket.IPPROTO_IP, _IP_PKTINFO, 1),
            (socket.IPPROTO_IP, _IP_ROUTER_ALERT, 1),
        ),
    ),
    ("6", socket.AF_INET6, _RSVP, ((socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1), *_TOLD6)),
    (
        "6-alert",
        socket.AF_INET6,
        socket.IPPROTO_RAW,
        (
            # Sockets that hear alerts are the machine's, not a network namespace's, unless they say so (Linux 5.1).
            (socket.IPPROTO_IPV6, _IPV6_ROUTER_ALERT_ISOLATE, 1),
            (socket.IPPROTO_IPV6, _IPV6_ROUTER_ALERT, _ALERT_OF_RSVP),
            *_TOLD6,
        ),
    ),
)
_ROOT, _LINK, _REST, _CONTROL, _FIRST = 0x1_0000, 0x1_0001, 0x1_0002, 0x1_0003, 0x0F
_REST_SHARE = 100
_CONTROL_RATE = 8_000
_QUEUE_S = 0.05
"""How long best effort may queue: as a router's buffer of that many seconds."""
_BURST_S = 0.001
_FRAME = 1514


def open_rsvp() -> dict[str, int]:
    """Raw sockets that get messages of RSVP, by name: ``4`` those for this host and those that it would forward with Router Alert (ip(7));
    ``6`` those for this host, ``6-alert`` those that it would forward (ipv6(7): the kernel gives these to another protocol's socket
    only). IPv6 is left out where the host does not speak it.
    """
    found: dict[str, socket.socket] = {}
    try:
        for name, family, protocol, options in _SOCKETS:
            raw = _open_raw(family, protocol)
            if raw is None:
                continue
            found[name] = raw
            for level, option, value in options:
                raw.setsockopt(level, option, value)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            raw.setblocking(False)
    except OSError as error:
        for raw in found.values():
            raw.close()
        raise HostError(f"the raw sockets of RSVP cannot be set up: {error}") from error
    return {name: raw.detach() for name, raw in found.items()}


def _open_raw(family: int, protocol: int) -> socket.socket | None:
    try:
        return socket.socket(family, socket.SOCK_RAW, protocol)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT and family == socket.AF_INET6:
            return None
        raise HostError(f"no raw socket for RSVP ({error.strerror}): the host helper needs CAP_NET_RAW") from error


class Shaper:
    """The links that one agent ordered. Every change of filter rules is one transaction, so that no packet meets half a change."""

    def __init__(self) -> None:
        self._links: dict[str, tuple[int, int]] = {}
        self._flows: dict[tuple[str, int], FlowReserve] = {}

    def shape(self, request: LinkShape) -> None:
        """Order a device's queue; one that is ordered already gets another rate, and keeps its reservations."""
        rate = request.rate
        if rate is None:
            self._unshape(request.device)
            return
        with _netlink() as link:
            index = _index(link, request.device)
            if self._links.get(request.device, (0, 0))[0] == index:
                self._change(link, request.device, index, rate)
                return
            self._unshape(request.device)
            with contextlib.suppress(HostError):
                _tc(link, "del", index=index, root=True)
            self._links[request.device] = (index, rate)
            try:
                _tc(link, "add", "htb", index, _ROOT, default=_REST & 0xFFFF)
                _line(link, "add", index, rate)
                run("nft", "-f", "-", stdin=_link_rules(index))
            except HostError:
                with contextlib.suppress(HostError):
                    self._unshape(request.device)
                raise

    def _change(self, link: Any, device: str, index: int, rate: int) -> None:
        _line(link, "change", index, rate)
        for (name, handle), flow in self._flows.items():
            if name == device:
                _class(link, "change", index, _ROOT | _FIRST + handle, _LINK, flow.served, max(rate, flow.served), 1)
        self._links[device] = (index, rate)

    def reserve(self, request: FlowReserve) -> None:
        """Make or change a reservation: the class first, then the rule that sends packets there. A class that was left because there was
        no rule for it is taken over.
        """
        index, link_rate = self._link(request.device)
        old = self._flows.get((request.device, request.handle))
        minor = _FIRST + request.handle
        with _netlink() as link:
            _class(link, "replace", index, _ROOT | minor, _LINK, request.served, max(link_rate, request.served), 1)
            size = request.bucket + request.bucket // 4 + 4 * request.max_packet
            _tc(link, "replace", "bfifo", index, minor << 16, parent=_ROOT | minor, limit=size)
        run("nft", "-f", "-", stdin=_flow_rules(index, minor, request, old))
        self._flows[request.device, request.handle] = request

    def release(self, request: FlowRelease) -> None:
        """The rule first, then the class."""
        old = self._flows.pop((request.device, request.handle), None)
        if old is None:
            return
        index, _ = self._link(request.device)
        minor = _FIRST + request.handle
        run("nft", "-f", "-", stdin=_no_flow(index, minor, old))
        with _netlink() as link:
            _tc(link, "del-class", index=index, handle=_ROOT | minor, parent=_LINK)

    def carried(self, device: str) -> FlowsCarried:
        """Counters of a device's flows."""
        index, _ = self._link(device)
        listed = json.loads(run("nft", "-j", "list", "table", *_table(index).split()))["nftables"]
        found: dict[int, list[int]] = {}
        for rule in (each["rule"] for each in listed if "rule" in each):
            chain, _, minor = rule["chain"].rpartition("_")
            if chain != "flow":
                continue
            for counter in (each["counter"] for each in rule["expr"] if "counter" in each):
                found.setdefault(int(minor) - _FIRST, []).extend((counter["packets"], counter["bytes"]))
        return FlowsCarried({handle: (n[2], n[3], n[0], n[1]) for handle, n in found.items() if len(n) == 4})

    def clear(self) -> None:
        """Give every device back its usual queue."""
        for device in [*self._links]:
            with contextlib.suppress(HostError):
                self._unshape(device)

    def _link(self, device: str) -> tuple[int, int]:
        if device not in self._links:
            raise HostError(f"the queue of {device} was not ordered for reservations")
        return self._links[device]

    def _unshape(self, device: str) -> None:
        known = self._links.pop(device, None)
        if known is None:
            return
        for name in [name for name in self._flows if name[0] == device]:
            del self._flows[name]
        with _netlink() as link, contextlib.suppress(HostError):
            _tc(link, "del", index=known[0], root=True)
        run("nft", "-f", "-", stdin=_no_table(known[0]))


@contextlib.contextmanager
def _netlink() -> Iterator[Any]:
    from pyroute2 import IPRoute  # its import takes 0.4 s, which helpers that shape nothing need not wait for
    from pyroute2.netlink.rtnl.tcmsg import plugins

    plugins.setdefault("bfifo", plugins["pfifo"])  # the same message; the kernel reads the limit as bytes
    with IPRoute() as link:
        yield link


def _index(link: Any, device: str) -> int:
    found = link.link_lookup(ifname=device)
    if not found:
        raise HostError(f"there is no network device {device}")
    return int(found[0])


def _tc(link: Any, command: str, *arguments: Any, **options: Any) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        link.tc(command, *arguments, **options)
    except NetlinkError as error:
        raise HostError(f"traffic control refused {command} {' '.join(map(str, arguments[:1]))}: {error}") from error


def _line(link: Any, command: str, index: int, rate: int) -> None:
    """The classes that every ordered link has, and the queue of best effort."""
    _class(link, command, index, _LINK, _ROOT, rate, rate, 0)
    _class(link, command, index, _REST, _LINK, max(rate // _REST_SHARE, 1000), rate, 7)
    _class(link, command, index, _CONTROL, _LINK, min(_CONTROL_RATE, rate // 4), rate, 0)
    _tc(link, "replace", "pfifo", index, 0x2_0000, parent=_REST, limit=max(16, round(rate * _QUEUE_S / _FRAME)))


def _class(link: Any, command: str, index: int, handle: int, parent: int, rate: int, ceil: int, prio: int) -> None:
    """A class; its burst is what a millisecond carries and two frames, so that it never fills the queue of the line behind."""
    quantum = min(max(rate // 100, 2 * _FRAME), 60_000)
    _tc(
        link,
        f"{command}-class",
        "htb",
        index,
        handle,
        parent=parent,
        rate=rate,
        ceil=ceil,
        burst=round(rate * _BURST_S) + 2 * _FRAME,
        cburst=round(ceil * _BURST_S) + 2 * _FRAME,
        prio=prio,
        quantum=quantum,
    )


def _table(index: int) -> str:
    """A table per device: who gives one back touches no other."""
    return f"inet {TABLE}_{index}"


def _no_table(index: int) -> str:
    """Take the table away, whether it is there or not: one may be left of a process that was killed."""
    return f"add table {_table(index)}\ndelete table {_table(index)}\n"


def _link_rules(index: int) -> str:
    """The table of one device, made anew."""
    table = _table(index)
    lines = [_no_table(index), f"add table {table}"]
    for version in (4, 6):
        address = f"ipv{version}_addr"
        kind = f"type {address} . {address} . inet_proto . inet_service . inet_service : verdict; flags interval;"
        lines.append(f"add map {table} flows{version} {{ {kind} }}")
    lines += [
        f"add chain {table} link",
        f"add rule {table} link meta l4proto {_RSVP} meta priority set 1:{_CONTROL & 0xFFFF:x} return",
        f"add rule {table} link ip saddr . ip daddr . ip protocol . th sport . th dport vmap @flows4",
        f"add rule {table} link ip6 saddr . ip6 daddr . ip6 nexthdr . th sport . th dport vmap @flows6",
        f"add chain {table} leave {{ type filter hook postrouting priority 10; policy accept; }}",
        f"add rule {table} leave oif {index} jump link",
    ]
    return "\n".join(lines) + "\n"


def _flow_rules(index: int, minor: int, flow: FlowReserve, old: FlowReserve | None) -> str:
    table, chain = _table(index), f"flow_{minor}"
    lines = [f"add chain {table} {chain}", f"flush chain {table} {chain}"]
    if old is not None:
        lines += _elements("delete", index, old, chain)
    beyond = f"limit rate over {flow.rate} bytes/second burst {max(flow.bucket, flow.max_packet)} bytes counter return"
    lines += [
        f"add rule {table} {chain} {beyond}",
        f"add rule {table} {chain} counter meta priority set 1:{minor:x} return",
        *_elements("add", index, flow, chain),
    ]
    return "\n".join(lines) + "\n"


def _elements(command: str, index: int, flow: FlowReserve, chain: str) -> list[str]:
    """Which packets are the flow's, in the map of its family."""
    version = ip_address(flow.destination).version
    anybody = ("0.0.0.0/0" if version == 4 else "::/0", 0)
    port = str(flow.port) if flow.port else "0-65535"
    return [
        f"{command} element {_table(index)} flows{version} "
        f"{{ {address} . {flow.destination} . {flow.protocol} . {source or '0-65535'} . {port} : jump {chain} }}"
        for address, source in flow.senders or (anybody,)
    ]


def _no_flow(index: int, minor: int, flow: FlowReserve) -> str:
    table, chain = _table(index), f"flow_{minor}"
    lines = [*_elements("delete", index, flow, chain), f"flush chain {table} {chain}", f"delete chain {table} {chain}"]
    return "\n".join(lines) + "\n"
