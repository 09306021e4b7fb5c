"""Quantities as people write them in configuration: durations, sizes, rates, addresses."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from polder.model.spread_messages import Redundancy

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)\Z")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|m|h|d)\Z")
_COPIES = re.compile(r"\d(?:\.\d{1,3})?\Z", re.ASCII)
_GROUP = re.compile(r"(\d{1,2})\+(\d{1,2})\Z", re.ASCII)
_MOST_COPIES, _MOST_SHARDS = 4, 64
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*\Z")


def parse_duration(value: Any) -> float:
    """Seconds of ``"30m"``, ``"1h30m"``, ``"250ms"`` or a bare number of seconds; raises ``ValueError``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    parts = _DURATION.findall(value) if isinstance(value, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError(f"{value!r} is not a duration: write a number with ms, s, m, h, d or w, such as 30m or 1h30m")
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def format_duration(seconds: float) -> str:
    """The shortest ``1d2h`` form of a number of seconds; parts below a second are rounded away above a minute."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    rest, parts = round(seconds), []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(_SECONDS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def parse_millis(value: Any) -> Any:
    """Milliseconds of a duration text; a bare number is milliseconds already."""
    return round(parse_duration(value) * 1000) if isinstance(value, str) and not value.isdigit() else value


def parse_size(value: Any) -> Any:
    """Bytes of ``"64KiB"``; a bare number is bytes already; raises ``ValueError``."""
    if not isinstance(value, str) or value.isdigit():
        return value
    match = _SIZE.match(value)
    if match is None:
        raise ValueError(f"{value!r} is not a size: write a number with B, KiB, MiB or GiB, such as 64KiB")
    return int(match[1]) * _BYTES[match[2]]


def parse_rate(value: Any) -> float:
    """Events per second of ``"30/m"`` or of a bare number per second; raises ``ValueError``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _RATE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a rate: write a number per s, m, h or d, such as 30/m")
    return float(match[1]) / _SECONDS[match[2]]


def parse_redundancy(value: Any) -> Redundancy:
    """Of ``"0.5"`` (copies per packet, 0 to 4) or ``"20+10"`` (datagrams and repairs, 1 to 64 each); raises ``ValueError``."""
    text = str(value)
    copies, group = _COPIES.match(text), _GROUP.match(text)
    if copies is not None and float(text) <= _MOST_COPIES:
        return Redundancy(float(text))
    if group is not None and all(1 <= int(part) <= _MOST_SHARDS for part in group.groups()):
        return Redundancy(0.0, (int(group[1]), int(group[2])))
    raise ValueError(
        f"{text!r} is no redundancy: write extra copies per packet from 0 to {_MOST_COPIES}, such as 0.5, or datagrams+repairs "
        f"from 1 to {_MOST_SHARDS} each, such as 20+10"
    )


def format_redundancy(redundancy: Redundancy) -> str:
    """As it is written in configuration."""
    return f"{redundancy.copies:g}" if redundancy.fec is None else "{}+{}".format(*redundancy.fec)


def parse_address(value: Any) -> str:
    """``ip:port`` or ``[ip]:port`` in canonical form; ``localhost`` means 127.0.0.1; raises ``ValueError``.

    Names are refused: what is checked must be what is dialled.
    """
    text = str(value)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]") if bracketed else host
    try:
        ip = ipaddress.ip_address(host)
        number = int(port) if port.isascii() and port.isdigit() else -1
    except ValueError:
        number = -1
    if not colon or not 0 <= number <= 65535 or bracketed != (":" in host):
        raise ValueError(f"{text!r} is not an address: write ip:port or [ip6]:port, such as 192.0.2.7:7443")
    return f"[{ip}]:{number}" if ip.version == 6 else f"{ip}:{number}"


def parse_host(value: Any) -> str:
    """A DNS host name in lower case without a final dot; raises ``ValueError``. IP addresses are not host names."""
    text = str(value).lower().removesuffix(".")
    if len(text) > 253 or not _HOST.match(text) or text.rpartition(".")[2].isdigit():
        raise ValueError(f"{value!r} is not a host name, such as wiki.example.org")
    return text


def parse_list(value: Any) -> Any:
    """Commas separate the items where a list is given as one text, as in an environment variable."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _schema(form: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "number"], "description": form, "examples": [example]})


Duration = Annotated[float, BeforeValidator(parse_duration), _schema("duration; a bare number is seconds", "30m")]
Millis = Annotated[int, BeforeValidator(parse_millis), _schema("duration; a bare number is milliseconds", "2s")]
Size = Annotated[int, BeforeValidator(parse_size), _schema("size; a bare number is bytes", "64KiB")]
Rate = Annotated[float, BeforeValidator(parse_rate), _schema("rate; a bare number is per second", "30/m")]
Address = Annotated[
    str, BeforeValidator(parse_address), WithJsonSchema({"type": "string", "examples": ["192.0.2.7:7443", "[2001:db8::7]:7443"]})
]
RedundancyText = Annotated[
    str,
    BeforeValidator(lambda value: format_redundancy(parse_redundancy(value))),
    _schema("copies per packet, or datagrams+repairs", "20+10"),
]
Host = Annotated[str, BeforeValidator(parse_host), WithJsonSchema({"type": "string", "format": "hostname"})]
Addresses = Annotated[tuple[Address, ...], BeforeValidator(parse_list)]
Hosts = Annotated[tuple[Host, ...], BeforeValidator(parse_list)]
