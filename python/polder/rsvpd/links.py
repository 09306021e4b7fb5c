"""What the settings say of this host's links, as the machine and the host helper want it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polder.rsvp.errors import RsvpError
from polder.rsvp.integrity import Key
from polder.rsvp.state import Config, Interface
from polder.rsvpd.kernel import Device
from polder.settings.base import ConfigError
from polder.settings.rsvp import LinkSettings, RsvpSettings

_USUAL = 125e6
"""Bytes/s that a link without a rate is taken to carry, for what it adds to delays: 1 Gbit/s."""


def interfaces(settings: RsvpSettings, devices: Sequence[Device]) -> dict[int, Interface]:
    """Every device that has an address; raises ``ConfigError`` for links that cannot be."""
    links = {link.device: link for link in settings.links}
    missing = links.keys() - {device.name for device in devices}
    if missing:
        why = f"there is no network device {', '.join(sorted(missing))} with an address"
        raise ConfigError("rsvp settings", "links", why)
    if not devices:
        raise ConfigError("rsvp settings", "links", "no network device has an address")
    found = {}
    for device in devices:
        link = links.get(device.name, LinkSettings(device=device.name))
        if link.policy and settings.pdp is None:
            why = f"link {device.name} needs the word of a policy decision point, and none is named"
            raise ConfigError("rsvp settings", "pdp", why)
        line = rate(link)
        first, other = (device.four, device.six) if device.four is not None else (device.six, None)
        assert first is not None  # kernel.devices gives only those that have one
        found[device.index] = Interface(
            device.index,
            first,
            reservable(link) or float("inf"),
            line or _USUAL,
            device.mtu,
            0,
            link.policy,
            link.name or device.name,
            other,
        )
    return found


def rate(link: LinkSettings) -> float | None:
    """Bytes/s that the link carries; ``None``: not said."""
    return link.rate_mbit * 1e6 / 8 if link.rate_mbit else None


def reservable(link: LinkSettings) -> float | None:
    """Bytes/s that may be reserved; ``None``: no bound."""
    line = rate(link)
    return line * link.reservable if line else None


def ordered(settings: RsvpSettings) -> dict[str, int]:
    """Devices whose queues are to be ordered, with their rates."""
    return {link.device: round(line) for link in settings.links if (line := rate(link))}


def keys(settings: RsvpSettings) -> dict[str, tuple[Key, ...]]:
    """Keys by device; raises ``ConfigError``."""
    return {link.device: read_keys(Path(link.key_file)) for link in settings.links if link.key_file}


def read_keys(path: Path) -> tuple[Key, ...]:
    """Keys of a link; raises ``ConfigError`` without telling what stands in the file."""
    found = []
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "key_file", f"cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, secret = line.strip().partition(" ")
        try:
            found.append(Key(int(name), bytes.fromhex(secret)))
        except (ValueError, RsvpError):
            raise ConfigError(str(path), "key_file", "not `NUMBER HEX` with a secret of at least 16 bytes", number) from None
    if not found:
        raise ConfigError(str(path), "key_file", "no key is in it")
    return tuple(found)


def config(settings: RsvpSettings) -> Config:
    """How the machine behaves."""
    return Config(
        name=settings.name,
        period=settings.period,
        lost=settings.lost,
        longest_period=settings.longest_period,
        blockade=settings.blockade,
        repair_wait=settings.repair_wait,
        first_retry=settings.first_retry,
        retries=settings.retries,
        reduce=settings.reduce,
        ahead=settings.ahead,
        most_paths=settings.most_paths,
        most_reservations=settings.most_reservations,
        bundle_bytes=settings.bundle_cache,
    )
