"""Privileged side effects: filters, tunnels, namespaces."""

from polder.host.client import Host, HostHelper, LocalHost
from polder.host.commands import HostError
from polder.host.messages import Abilities, FilterState, Tunnel, TunnelPeer, TunnelUp

__all__ = ["Abilities", "FilterState", "Host", "HostError", "HostHelper", "LocalHost", "Tunnel", "TunnelPeer", "TunnelUp"]
