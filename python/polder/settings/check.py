"""Looks over every configuration in a state directory: each by itself, then what contradicts what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polder.settings.authority import AuthoritySettings
from polder.settings.base import ConfigError, Settings
from polder.settings.client import ClientSettings
from polder.settings.identity import IdentityDir
from polder.settings.lines import line_of
from polder.settings.load import SECTIONS, load
from polder.settings.money import ClearingSettings, ProviderSettings
from polder.settings.node import NodeSettings, is_wildcard
from polder.settings.quantities import parse_address
from polder.settings.site import SiteSettings
from polder.settings.state import StateDir


@dataclass(frozen=True)
class Finding:
    """``error``: the process would refuse it; otherwise it would run, and not as meant. ``line`` from 1, if known."""

    file: str
    line: int | None
    key: str
    why: str
    error: bool

    def facts(self) -> dict[str, Any]:
        """For a program."""
        return asdict(self)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.why}" if self.key else f"{place}: {self.why}"


@dataclass(frozen=True)
class Part:
    """One configuration that could be read."""

    section: str
    file: Path
    settings: Settings

    @property
    def directory(self) -> Path:
        """The identity, or the authority, that it belongs to."""
        return self.file.parent

    def finding(self, key: str, why: str) -> Finding:
        """Something about ``key``; its line is looked for in the file and its drop-ins, the last one first."""
        files = [self.file, *sorted((self.directory / "conf.d").glob("*.toml"))]
        for file in reversed(files):
            if (line := line_of(file, key.split("."))) is not None:
                return Finding(str(file), line, key, why, error=False)
        return Finding(str(self.file), None, key, why, error=False)


def check(state: StateDir, env: Mapping[str, str]) -> tuple[list[Part], list[Finding]]:
    """Everything that is configured in ``state``, and what is wrong with it."""
    parts, findings = [], []
    for section, file in _files(state):
        try:
            parts.append(Part(section, file, load(SECTIONS[section], file, env)))
        except ConfigError as error:
            findings.append(Finding(error.source, error.line, error.key, error.why, error=True))
    findings += _same_address(parts)
    for part in parts:
        findings += [*_identity(part), *_helpers(part)]
    return parts, findings


def _files(state: StateDir) -> Iterator[tuple[str, Path]]:
    """Those that are there, and those that would be read if they were: an enrolled identity needs none."""
    if state.authority.is_dir():
        yield "authority", state.authority / "authority.toml"
    for section, directory in (("clearing", state.clearing), ("isp", state.isp), ("provider", state.provider)):
        if (directory / f"{section}.toml").exists():
            yield section, directory / f"{section}.toml"
    for kind, section in (("node", "node"), ("site", "site"), ("user", "client")):
        for directory in state.enrolled(kind):
            file = directory / f"{section}.toml"
            if file.exists() or section != "site":  # a site's agent runs only after `polder protect`
                yield section, file


def _listens(part: Part) -> Iterator[tuple[str, str]]:
    """Key and address of every TCP listener."""
    match part.settings:
        case NodeSettings(listen=listen):
            yield from (("listen", address) for address in listen)
        case (
            AuthoritySettings(listen=address)
            | ClientSettings(listen=address)
            | ClearingSettings(listen=address)
            | ProviderSettings(listen=address)
        ):
            yield "listen", address
    told = getattr(part.settings, "metrics_listen", "off")
    if not told.startswith(("unix", "off")):
        yield "metrics_listen", told


def _same_address(parts: list[Part]) -> Iterator[Finding]:
    taken: dict[tuple[str, str], Part] = {}
    for part in parts:
        for key, address in _listens(part):
            host, _, port = parse_address(address).rpartition(":")
            clash = next(
                (
                    other
                    for (there, at), other in taken.items()
                    if at == port != "0" and (there == host or is_wildcard(address) or is_wildcard(f"{there}:{at}"))
                ),
                None,
            )
            if clash is not None:
                yield part.finding(key, f"{address} is taken by {clash.file}: give one of them another port")
            taken[host, port] = part


def _identity(part: Part) -> Iterator[Finding]:
    """Whether a configuration and the certificate beside it speak of the same."""
    if part.section in {"authority", "clearing", "isp", "provider"}:
        return
    try:
        identity = IdentityDir.load(part.directory)
    except ConfigError as error:
        yield Finding(error.source, error.line, error.key, error.why, error=True)
        return
    match part.settings:
        case NodeSettings(name=str(name)) if name != identity.id.name:
            yield part.finding("name", f"the certificate is for {identity.id.name!r}; leave the key out, or enrol again")
        case NodeSettings(advertise=None, listen=listen) if identity.address is None and all(map(is_wildcard, listen)):
            yield part.finding("advertise", "others cannot dial a wildcard: give the node's own address")
        case SiteSettings(name=name) if name != identity.id.name:
            yield part.finding("name", f"the certificate is for {identity.id.name!r}")
        case SiteSettings(hosts=hosts) if foreign := [host for host in hosts if host not in identity.hosts]:
            yield part.finding("hosts", f"not in the site's certificate, so nodes refuse the record: {', '.join(foreign)}")
        case SiteSettings(allow=()):
            yield part.finding("allow", 'nobody may read the site: write allow = ["group:staff"], or ["anyone"] for every user')
        case ClientSettings(access_points=points):
            known = {member.name for member in identity.members}
            for name in points:
                if known and name not in known:
                    yield part.finding("access_points", f"no node called {name!r} is known; known are {', '.join(sorted(known))}")


def _helpers(part: Part) -> Iterator[Finding]:
    """Whether the sockets that it wants to talk to are there."""
    for key in ("host_helper", "filter_helper"):
        path = getattr(part.settings, key, None)
        if path is not None and not Path(path).is_socket():
            yield part.finding(key, f"nothing listens at {path}: start `polder host-helper`")
