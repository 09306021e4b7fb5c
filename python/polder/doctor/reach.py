"""What others can reach of this machine that they should not: a site past its perimeter, metrics past loopback."""

from __future__ import annotations

from ipaddress import ip_address

from polder.doctor.finding import Finding
from polder.model import Member
from polder.settings.identity import IdentityDir
from polder.settings.site import SiteSettings
from polder.settings.watching import Watched
from polder.site.outside import Seen, accepting, outer_addresses, seen_from

_ASKED = 3
"""Nodes of each address family that look."""


async def from_outside(name: str, identity: IdentityDir, settings: SiteSettings) -> list[Finding]:
    """Ask nodes of both address families whether the origin's ports accept them. Each family is a finding of its own."""
    ports = tuple(dict.fromkeys(int(origin.rpartition(":")[2]) for _, origin in settings.port_map()))[:8]
    ours = {ip_address(each).version for each in outer_addresses()}
    return [await _family(name, identity, ports, version, version in ours) for version in (4, 6)]


async def _family(name: str, identity: IdentityDir, ports: tuple[int, ...], version: int, ours: bool) -> Finding:
    check = f"{name} from outside, IPv{version}"
    nodes = [member for member in identity.members if family(member) == version and not _here(member)][:_ASKED]
    if not ours:
        return Finding(check, None, f"this machine has no IPv{version} address that others reach")
    if not nodes:
        cure = f"from a machine elsewhere: curl -{version} --connect-timeout 5 ADDRESS:{ports[0]} must fail"
        return Finding(check, None, f"no node elsewhere has an IPv{version} address, so none can look", cure)
    return judge(check, await seen_from(identity, nodes, ports))


def judge(check: str, seen: list[Seen]) -> Finding:
    """What the nodes that looked say together."""
    looked = [each for each in seen if each.trouble is None]
    open_ = sorted({(each.address, port) for each in looked for port in each.open})
    if open_:
        where = ", ".join(f"{address} port {port}" for address, port in open_)
        return Finding(check, False, f"anybody reaches the origin at {where}: a flood need not care about the overlay", _SHUT)
    if not looked:
        return Finding(check, None, f"no node looked: {seen[0].trouble}", "try again in ten seconds")
    return Finding(check, True, f"{len(looked)} nodes cannot reach the origin directly")


_SHUT = "bind the origin to loopback, or `polder filter apply` on the router in front of it"


def family(member: Member) -> int:
    """4 or 6."""
    return ip_address(member.address.rpartition(":")[0].strip("[]")).version


def _here(member: Member) -> bool:
    """A node on this machine sees it from the inside."""
    host = member.address.rpartition(":")[0].strip("[]")
    return ip_address(host).is_loopback or host in outer_addresses()


async def metrics(name: str, settings: Watched) -> list[Finding]:
    """Whether the metrics listener can be reached from other machines."""
    address = settings.metrics_address()
    if address is None or ip_address(address[0]).is_loopback:
        where = settings.metrics_listen
        return [Finding(f"{name} metrics", True, "off" if where == "off" else f"on this machine only ({where})")]
    wild = ip_address(address[0]).is_unspecified
    found = await accepting(outer_addresses() if wild else [address[0]], address[1])
    if not found:
        return [
            Finding(f"{name} metrics", None, f"metrics_listen = {settings.metrics_listen} does not answer: is the node running?")
        ]
    what = f"whoever reaches {', '.join(found)} port {address[1]} reads how busy this process is"
    return [
        Finding(f"{name} metrics", False, what, 'metrics_listen = "127.0.0.1:9743", or shut the port to all but your Prometheus')
    ]
