"""What integrated services say in RSVP's objects: traffic, requests, what a path offers (RFC 2210, 2211, 2212, 2215).

Rates are bytes of IP datagrams per second and sizes are bytes; rates and buckets travel as 32-bit floats and are kept exactly as they
came. Delays are microseconds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

from polder.rsvp.errors import Admission, Code, RsvpError, Traffic

_HEAD = struct.Struct("!BBH")
_SERVICE = struct.Struct("!BBH")
_BUCKET = struct.Struct("!fffII")
_RSPEC = struct.Struct("!fI")
_GENERAL = 1
_TOKEN_BUCKET = 127
_GUARANTEED_RSPEC = 130
_WORD = 4
LARGEST_RATE = 40e12
"""Bytes per second (RFC 2215 §3.6)."""
LARGEST_BUCKET = 250e9


class Service(IntEnum):
    """Service numbers (RFC 2210 §3)."""

    GUARANTEED = 2
    CONTROLLED_LOAD = 5

    @property
    def text(self) -> str:
        """As commands and policies write it."""
        return self.name.lower().replace("_", "-")


def single(value: float) -> float:
    """The nearest number that 32 bits hold, which is what the other side will read."""
    try:
        return float(struct.unpack("!f", struct.pack("!f", value))[0])
    except OverflowError:
        return math.inf


@dataclass(frozen=True, slots=True)
class Tspec:
    """Traffic (RFC 2215 §3.6): at most ``rate`` × T + ``bucket`` bytes in any T seconds, never faster than ``peak``.

    Packets below ``min_unit`` bytes count as such; none is larger than ``max_packet``.
    """

    rate: float
    bucket: float
    peak: float = math.inf
    min_unit: int = 64
    max_packet: int = 1500

    def pack(self) -> bytes:
        """The parameter 127 with its header."""
        head = _HEAD.pack(_TOKEN_BUCKET, 0, _BUCKET.size // _WORD)
        return head + _BUCKET.pack(self.rate, self.bucket, self.peak, self.min_unit, self.max_packet)

    def check(self) -> None:
        """Raise ``RsvpError`` for traffic that cannot be: the code is that of a bad traffic specification."""
        wrong = None
        if not (1 <= self.rate <= LARGEST_RATE and self.peak >= self.rate):
            wrong = f"rate {self.rate:g} and peak {self.peak:g} bytes/s: 1 to {LARGEST_RATE:g}, and the peak not below the rate"
        elif not 1 <= self.bucket <= LARGEST_BUCKET:
            wrong = f"a bucket of {self.bucket:g} bytes: 1 to {LARGEST_BUCKET:g}"
        elif not 1 <= self.min_unit <= self.max_packet:
            wrong = f"packets of {self.min_unit} to {self.max_packet} bytes: the smallest is at least 1, the largest not below it"
        if wrong:
            raise RsvpError(wrong, Code.TRAFFIC_CONTROL, Traffic.BAD_TSPEC)

    def rounded(self) -> Tspec:
        """The same with numbers that 32-bit floats hold."""
        return replace(self, rate=single(self.rate), bucket=single(self.bucket), peak=single(self.peak))


@dataclass(frozen=True, slots=True)
class Rspec:
    """What guaranteed service adds (RFC 2212): the ``rate`` to be served, bytes/s, and the ``slack`` in microseconds."""

    rate: float
    slack: int = 0


@dataclass(frozen=True, slots=True)
class Flowspec:
    """A request: traffic, and for guaranteed service what it is to get."""

    tspec: Tspec
    rspec: Rspec | None = None

    @property
    def service(self) -> Service:
        """Guaranteed with an ``rspec``, else Controlled-Load."""
        return Service.GUARANTEED if self.rspec else Service.CONTROLLED_LOAD

    @property
    def rate(self) -> float:
        """Bytes/s that a link must keep free for it."""
        return self.rspec.rate if self.rspec else self.tspec.rate

    def check(self) -> None:
        """Raise ``RsvpError`` for a request that makes no sense (RFC 2212: R not below r)."""
        self.tspec.check()
        if self.rspec and not self.tspec.rate <= self.rspec.rate <= LARGEST_RATE:
            raise RsvpError(
                f"a guaranteed rate of {self.rspec.rate:g} bytes/s for traffic of {self.tspec.rate:g}",
                Code.TRAFFIC_CONTROL,
                Traffic.BAD_FLOWSPEC,
            )

    def pack(self) -> bytes:
        """The body of a FLOWSPEC object (RFC 2210 §3.2)."""
        data = self.tspec.pack()
        if self.rspec:
            data += _HEAD.pack(_GUARANTEED_RSPEC, 0, _RSPEC.size // _WORD) + _RSPEC.pack(self.rspec.rate, self.rspec.slack)
        return _frame(self.service, data)


def _frame(service: int, data: bytes) -> bytes:
    inner = _SERVICE.pack(service, 0, len(data) // _WORD) + data
    return _HEAD.pack(0, 0, len(inner) // _WORD) + inner


def pack_sender(tspec: Tspec) -> bytes:
    """The body of a SENDER_TSPEC object (RFC 2210 §3.1)."""
    return _frame(_GENERAL, tspec.pack())


def _unframe(body: bytes, what: str) -> tuple[int, bytes]:
    """Service number and parameters; raises ``RsvpError``."""
    if len(body) < 2 * _WORD:
        raise RsvpError(f"a {what} of {len(body)} bytes")
    first, _, words = _HEAD.unpack_from(body)
    service, _, inner = _SERVICE.unpack_from(body, _WORD)
    if first >> 4:
        raise RsvpError(f"a {what} of message format {first >> 4}: only 0 is known")
    if (words + 1) * _WORD != len(body) or (inner + 2) * _WORD != len(body):
        raise RsvpError(f"a {what} whose lengths ({words} and {inner} words) do not fit its {len(body)} bytes")
    return service, body[2 * _WORD :]


def _bucket(data: bytes, what: str) -> Tspec:
    if len(data) < _WORD + _BUCKET.size:
        raise RsvpError(f"a {what} without its token bucket")
    number, _, words = _HEAD.unpack_from(data)
    if number != _TOKEN_BUCKET or words * _WORD != _BUCKET.size:
        raise RsvpError(f"a {what} begins with parameter {number} of {words} words: 127 of 5 was expected")
    rate, bucket, peak, min_unit, max_packet = _BUCKET.unpack_from(data, _WORD)
    if math.isnan(rate) or math.isnan(bucket) or math.isnan(peak):
        raise RsvpError(f"a {what} with a rate that is not a number")
    return Tspec(rate, bucket, peak, min_unit, max_packet)


def read_sender(body: bytes) -> Tspec:
    """The body of a SENDER_TSPEC; raises ``RsvpError``."""
    service, data = _unframe(body, "SENDER_TSPEC")
    if service != _GENERAL or len(data) != _WORD + _BUCKET.size:
        raise RsvpError(f"a SENDER_TSPEC for service {service} with {len(data)} bytes of parameters")
    return _bucket(data, "SENDER_TSPEC")


def read_flowspec(body: bytes) -> Flowspec:
    """The body of a FLOWSPEC; raises ``RsvpError``, as "service unsupported" for one that is not ours."""
    service, data = _unframe(body, "FLOWSPEC")
    if service not in Service.__members__.values():
        raise RsvpError(f"service {service} is not offered", Code.TRAFFIC_CONTROL, Traffic.UNSUPPORTED)
    tspec, rest = _bucket(data, "FLOWSPEC"), data[_WORD + _BUCKET.size :]
    if service == Service.CONTROLLED_LOAD:
        if rest:
            raise RsvpError(f"{len(rest)} bytes behind a Controlled-Load request")
        return Flowspec(tspec)
    if len(rest) != _WORD + _RSPEC.size or _HEAD.unpack_from(rest) != (_GUARANTEED_RSPEC, 0, _RSPEC.size // _WORD):
        raise RsvpError("a Guaranteed request without its rate and slack")
    rate, slack = _RSPEC.unpack_from(rest, _WORD)
    if math.isnan(rate):
        raise RsvpError("a Guaranteed request with a rate that is not a number")
    return Flowspec(tspec, Rspec(rate, slack))


def sum_of(tspecs: Iterable[Tspec]) -> Tspec:
    """Traffic of several senders together (RFC 2212, "summed TSpec")."""
    each = list(tspecs)
    return Tspec(
        sum(t.rate for t in each),
        sum(t.bucket for t in each),
        sum(t.peak for t in each),
        min(t.min_unit for t in each),
        max(t.max_packet for t in each),
    )


def _widest(a: Tspec, b: Tspec) -> Tspec:
    """Enough for either; no packet larger than both can take (RFC 2212, "merged TSpec")."""
    return Tspec(
        max(a.rate, b.rate),
        max(a.bucket, b.bucket),
        max(a.peak, b.peak),
        min(a.min_unit, b.min_unit),
        min(a.max_packet, b.max_packet),
    )


def merged(a: Flowspec, b: Flowspec) -> Flowspec:
    """The least request that satisfies both (RFC 2205 §2.2). Guaranteed is more than Controlled-Load, so that a mix becomes
    Guaranteed; of two slacks the smaller holds.
    """
    tspec = _widest(a.tspec, b.tspec)
    rspecs = [each.rspec for each in (a, b) if each.rspec]
    if not rspecs:
        return Flowspec(tspec)
    rate = max([*(each.rate for each in rspecs), tspec.rate])
    return Flowspec(tspec, Rspec(rate, min(each.slack for each in rspecs)))


def least(a: Flowspec, b: Flowspec) -> Flowspec:
    """The greatest request that both allow: what a killer reservation is replaced by (RFC 2205 §3.5)."""
    x, y = a.tspec, b.tspec
    tspec = Tspec(
        min(x.rate, y.rate),
        min(x.bucket, y.bucket),
        min(x.peak, y.peak),
        max(x.min_unit, y.min_unit),
        max(x.max_packet, y.max_packet),
    )
    if a.rspec is None or b.rspec is None:
        return Flowspec(tspec)
    return Flowspec(tspec, Rspec(min(a.rspec.rate, b.rspec.rate), max(a.rspec.slack, b.rspec.slack)))


def covers(a: Flowspec, b: Flowspec) -> bool:
    """Whether ``a`` asks for at least as much as ``b`` in every respect: a partial order."""
    return merged(a, b) == a


def smaller(a: Flowspec, b: Flowspec) -> bool:
    """Whether ``a`` asks for strictly less than ``b``."""
    return a != b and covers(b, a)


def shaped(request: Flowspec, sent: Tspec | None) -> Flowspec:
    """What to install: never more than the senders can send (RFC 2210 §3.2: the lesser of Path_Te and the request), and never less than
    what both allow. So the bucket is that of the smaller rate: a smaller one would fill sooner than either.
    """
    if sent is None:
        return request
    tspec = request.tspec
    _, bucket = min((tspec.rate, tspec.bucket), (sent.rate, sent.bucket))
    fitted = Tspec(
        min(tspec.rate, sent.rate),
        bucket,
        min(tspec.peak, sent.peak),
        min(tspec.min_unit, sent.min_unit),
        min(tspec.max_packet, sent.max_packet),
    )
    return Flowspec(fitted, request.rspec)


def queueing_delay(tspec: Tspec, rate: float, c_bytes: float = 0, d_us: float = 0) -> float:
    """The bound of guaranteed service in seconds (RFC 2212 §1): ``rate`` R served, error terms C (bytes) and D (microseconds)
    summed over the path.
    """
    error = c_bytes / rate + d_us / 1e6
    if tspec.peak <= rate:
        return tspec.max_packet / rate + error
    burst = (tspec.bucket - tspec.max_packet) / rate
    if math.isinf(tspec.peak):
        return burst + tspec.max_packet / rate + error
    return burst * (tspec.peak - rate) / (tspec.peak - tspec.rate) + tspec.max_packet / rate + error


def rate_for_delay(tspec: Tspec, delay: float, c_bytes: float = 0, d_us: float = 0) -> float:
    """The least rate, bytes/s, whose bound is at most ``delay`` seconds; raises ``RsvpError`` when none is."""
    fixed = d_us / 1e6
    if delay <= fixed:
        raise RsvpError(f"the path alone delays {fixed:g} s", Code.ADMISSION, Admission.DELAY)
    low, high = tspec.rate, LARGEST_RATE
    if queueing_delay(tspec, high, c_bytes, d_us) > delay:
        raise RsvpError(f"no rate keeps a delay of {delay:g} s", Code.ADMISSION, Admission.DELAY)
    if queueing_delay(tspec, low, c_bytes, d_us) <= delay:
        return low
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if queueing_delay(tspec, middle, c_bytes, d_us) <= delay else (middle, high)
    return high
