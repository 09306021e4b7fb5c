"""``GreEndpoint``: the native GRE endpoint of a servlet or a site's gateway.

The host helper makes the device and the sockets (``polder.host``, mode ``tun``) and hands the descriptors over; the endpoint
carries packets on a thread of its own, never through Python.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from polder import _native
from polder.snapshot.schema import SCHEMA


class GrePeer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The far end of a tunnel: outer address, the key that we send, the keys that we take (two while one is rotated).

    ``inner`` (CIDR) are the addresses behind it: what is sent there, and the only sources that it may use.
    """

    outer: str
    send_key: int
    accept_keys: tuple[int, ...]
    inner: tuple[str, ...]

    def __repr__(self) -> str:
        return f"GrePeer(outer={self.outer!r}, inner={self.inner!r}, keys withheld)"


class GreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that an endpoint must know; ``mtu`` in inner bytes, 1280 to 9000, the device's.

    ``accept`` (CIDR): inner destinations that may come in, our own addresses: a servlet that was taken over must not reach
    what is behind the gateway. Empty: any, for a gateway that forwards.
    """

    peers: tuple[GrePeer, ...]
    mtu: int = 1400
    accept: tuple[str, ...] = ()
    schema: int = SCHEMA


class GreEndpoint:
    """One running endpoint.

    Raises ``ValueError`` for a configuration that contradicts itself (one inner network behind two peers, one
    {outer address, key} twice) and ``OSError`` for descriptors that are none.
    """

    def __init__(self, descriptors: Mapping[str, int], config: GreConfig) -> None:
        """Takes ``descriptors`` (``tun`` and ``raw4`` and/or ``raw6``, as ``Host.tunnel`` returns them) over and closes them."""
        try:
            self._native = _native.GreEndpoint(
                descriptors["tun"], descriptors.get("raw4", -1), descriptors.get("raw6", -1), msgspec.msgpack.encode(config)
            )
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)

    def update(self, config: GreConfig) -> None:
        """Put other peers in force; nothing is dropped by it. Raises ``ValueError``: the old ones stay."""
        self._native.update(msgspec.msgpack.encode(config))

    def counters(self) -> dict[str, int]:
        """Counters since birth, names beginning with ``gre_``."""
        return dict(self._native.counters())

    @property
    def alive(self) -> bool:
        """Whether it carries: false after ``stop``, or when its device was deleted."""
        return bool(self._native.alive())

    def stop(self) -> None:
        """Stop carrying and close the device and the sockets."""
        self._native.stop()
