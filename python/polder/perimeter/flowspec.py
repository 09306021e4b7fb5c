"""The plan as BGP FlowSpec (RFC 8955, RFC 8956 for IPv6) for ExaBGP: what a provider's routers can do upstream.

FlowSpec matches addresses, protocol, ports, TCP flags and fragments. It cannot express a GRE key, GRE flags or IPv4 options:
it keeps the volume away, and the key must be checked by a router or the gateway behind it. An attacker who knows a
servlet's address passes FlowSpec and is stopped there. No rule holds a key, so the file names servlets but no secret number.

RFC 8955 §5.1 orders rules by component, the more specific prefix first: rules with a source go before the rule that
discards the rest, whatever their order in the file.
"""

from __future__ import annotations

from ipaddress import ip_network

from polder.perimeter.nftables import table
from polder.perimeter.plan import Flow, Plan


def render(plan: Plan, now: float) -> str:
    """A ``flow { … }`` block to put into an ExaBGP ``neighbor`` (4.2); families ``ipv4 flow`` and ``ipv6 flow``."""
    name = table(plan.site)
    blocks: list[str] = []
    for family in (4, 6):
        for network in plan.protected(family):
            blocks += _protect(plan, now, family, f"{name}_{len(blocks)}", str(network))
    return "\n".join(
        [
            f"# Polder: perimeter of site {plan.site}, plan {plan.version}, for ExaBGP. FlowSpec cannot see GRE keys:",
            "# apply the nftables plan behind these routers as well.",
            "flow {",
            *blocks,
            "}",
            "",
        ]
    )


def _protect(plan: Plan, now: float, family: int, name: str, network: str) -> list[str]:
    edges = [edge for edge in plan.edges_of(family) if ip_network(edge).subnet_of(ip_network(network))]  # type: ignore[arg-type]
    width = 32 if family == 4 else 128
    blocks: list[str] = []
    sources = sorted({pair.source for pair in plan.live(now, family)})
    for edge in edges:
        for source in sources:
            match = [f"source {source}/{width}", f"destination {edge}/{width}", *_protocol(family, "gre"), *_whole(family)]
            blocks.append(_route(f"{name}_gre_{len(blocks)}", match, "accept"))
    for flow in plan.flows_of(family):
        match = [f"source {flow.source}", f"destination {network}", *_ports(flow, family), *_whole(family)]
        blocks.append(_route(f"{name}_flow_{len(blocks)}", match, "accept"))
    blocks.append(_route(f"{name}_rest", [f"destination {network}"], "discard"))
    return blocks


def _protocol(family: int, name: str) -> list[str]:
    """RFC 8956 §3.2: for IPv6 the upper-layer protocol, behind extension headers; the gateway refuses those."""
    return [f"protocol {name}" if family == 4 else f"next-header {name}"]


def _whole(family: int) -> list[str]:
    # ExaBGP 4.2 knows the fragment component for IPv4 only; an IPv6 fragment meets the key check behind.
    return ["fragment not-a-fragment"] if family == 4 else []


def _ports(flow: Flow, family: int) -> list[str]:
    match = _protocol(family, flow.protocol)
    match += [f"source-port ={flow.source_port}"] if flow.source_port else []
    match += [f"destination-port ={flow.dest_port}"] if flow.dest_port else []
    match += ["tcp-flags ack"] if flow.established else []
    return match


def _route(name: str, match: list[str], action: str) -> str:
    inner = " ".join(f"{each};" for each in match)
    return f"    route {name} {{ match {{ {inner} }} then {{ {action}; }} }}"
