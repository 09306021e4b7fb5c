"""``polder rsvpd``, ``polder rsvp``, ``polder reserve``: bandwidth reserved on the way to the nearest nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import secrets
import signal
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from polder.bandex import CheckTerms, CreditTerms, OfferTerms
from polder.bandex.writing import Wanted, order, pay
from polder.clearing.files import read_credentials, read_private
from polder.cli import running
from polder.cli.answer import DURATION, answer
from polder.cli.running import LEVELS, log_level
from polder.host.client import Host, HostHelper, LocalHost
from polder.keynote import split_assertions
from polder.model import Refused, Verdict
from polder.pdp.client import count
from polder.rsvp.policy_data import pack_bundle
from polder.rsvp.questions import digest
from polder.rsvpd.client import Connection, lost
from polder.rsvpd.door import texts
from polder.rsvpd.running import RsvpShell
from polder.rsvpd.values import Announce, Flow, Reserve, Told
from polder.settings.base import ConfigError
from polder.settings.load import load
from polder.settings.rsvp import PDP_SOCKET, RSVP_SOCKET, RsvpSettings
from polder.shell.clock import wall
from polder.shell.process import Life, Service, run

_CONFIG = "/etc/polder/rsvp.toml"
_PROTOCOLS = {"udp": 17, "tcp": 6}


class SessionType(click.ParamType[tuple[int, str, int]]):
    """``udp:198.18.1.1:5004``: where the data go; protocol by name or number, port 0 for any."""

    name = "session"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str, int]:
        """Protocol, address, port."""
        if isinstance(value, tuple):
            return value
        protocol, _, rest = str(value).partition(":")
        address, port = _endpoint(rest)
        number = _PROTOCOLS.get(protocol, int(protocol) if protocol.isdigit() else 0)
        if not address or not 1 <= number <= 255:
            self.fail(f"{value!r} is not a session: write protocol:address:port, such as udp:198.18.1.1:5004", param, ctx)
        return number, address, port


class EndpointType(click.ParamType[tuple[str, int]]):
    """``198.18.0.1:6000``: an address and a port, 0 for any."""

    name = "address:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Address and port."""
        if isinstance(value, tuple):
            return value
        address, port = _endpoint(str(value))
        if not address:
            self.fail(f"{value!r} is not an address with a port, such as 198.18.0.1:6000", param, ctx)
        return address, port


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        return "", 0
    return (str(address), number) if 0 <= number <= 65_535 else ("", 0)


def _traffic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that describe a flow."""
    for option in (
        click.option("--mbit", type=click.FloatRange(min=0.001), required=True, help="Rate of IP packets, in Mbit/s."),
        click.option(
            "--bucket", type=click.IntRange(min=1), default=32_000, show_default=True, help="Bytes that may come at once."
        ),
        click.option("--peak-mbit", type=float, help="Fastest that it ever sends. Default: twice the rate."),
        click.option(
            "--max-packet", type=click.IntRange(68, 65_535), default=1500, show_default=True, help="Largest packet, bytes."
        ),
        click.option(
            "--min-packet", type=click.IntRange(1, 65_535), default=64, show_default=True, help="Smaller ones count as this."
        ),
        click.option("--socket", default=RSVP_SOCKET, show_default=True, help="Socket of the daemon."),
        click.option("--for", "seconds", type=DURATION, help="For how long. Default: until it is told to stop."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object per event instead of text."),
    ):
        function = option(function)
    return function


def _flow(session: tuple[int, str, int], given: dict[str, Any]) -> Flow:
    rate = given["mbit"] * 1e6 / 8
    peak = (given["peak_mbit"] or 2 * given["mbit"]) * 1e6 / 8
    sizes = given["min_packet"], given["max_packet"]
    return Flow(session[1], session[0], session[2], rate, float(given["bucket"]), peak, *sizes)


@click.command("rsvpd")
@click.option("--config", "path", default=_CONFIG, show_default=True, help="Its settings; may be absent.")
@click.option("--log-level", "level", type=LEVELS, help="Instead of log_level in the settings.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object when it is ready.")
def rsvpd(path: str, level: str | None, as_json: bool) -> int:
    """Run the reservation daemon of this host or router until it is told to stop.

    Speaks RSVP (RFC 2205) on raw IP and orders the queues of the links that rsvp.toml names. On a host it needs no settings. SIGHUP
    reads them again (`polder rsvp reload`); reservations stand.
    """

    def settings() -> RsvpSettings:
        return load(RsvpSettings, Path(path), os.environ, log_level(level))

    async def start(life: Life[RsvpSettings]) -> Service:
        helper = life.settings.host_helper

        def connect() -> Host:
            return HostHelper(Path(helper)) if helper else LocalHost(wall)

        return await RsvpShell.start(life.settings, connect, life)

    def ready(shell: RsvpShell) -> None:
        now = shell.daemon.settings
        facts = {"router": now.name, "socket": now.socket, "links": [link.device for link in now.links]}
        _say(facts, f"{now.name} speaks RSVP; its socket is {now.socket}.", "polder rsvp show", as_json)

    return run(settings, start, ready)


def _say(facts: dict[str, Any], text: str, next_step: str, as_json: bool) -> None:
    answer(facts, text, next_step, as_json=as_json)
    sys.stdout.flush()


async def _until_told(seconds: float | None = None) -> None:
    """Wait for SIGTERM or SIGINT, or so many seconds."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(told.wait(), seconds)


@click.group()
def rsvp() -> None:
    """Look at reservations; announce what this host sends."""


@rsvp.command()
@click.option("--socket", default=RSVP_SOCKET, show_default=True, help="Socket of the daemon.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def show(socket: str, as_json: bool) -> None:
    """Print senders, reservations, what the links carry for them, and counters."""

    async def look() -> dict[str, Any]:
        async with await Connection.open(Path(socket)) as daemon:
            return await daemon.show()

    facts = asyncio.run(look())
    step = (
        "polder reserve SESSION --from SENDER"
        if facts["senders"]
        else "polder rsvp announce SESSION --source ADDRESS:PORT, at the sender"
    )
    answer(facts, "\n".join(_lines(facts)), step, as_json=as_json)


@rsvp.command()
@click.option("--socket", default=PDP_SOCKET, show_default=True, help="Socket of the policy decision point.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def judged(socket: str, as_json: bool) -> None:
    """Print how often the policy decision point of this machine accepted and refused since it was started."""
    counts = asyncio.run(count(socket))
    text = f"{counts['accepted']} accepted, {counts['refused']} refused, {counts['ended']} ended; {counts['failed']} faults"
    answer(counts, text, "its log, for faults" if counts["failed"] else "polder rsvp show, at a router", as_json=as_json)


@rsvp.command()
@click.option(
    "--socket",
    default="/run/polder-rsvp/admin.sock",
    show_default=True,
    help="Administrator's socket: beside the daemon's own, or the policy decision point's.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def reload(socket: str, as_json: bool) -> int:
    """Have the running daemon, or policy decision point, read its settings and the files that they name again; reservations stand. Exit
    status 3: something that changed waits for a restart.
    """
    return running.reload(Path(socket), None, as_json=as_json, after="polder rsvp show")


def _mbit(rate: float) -> str:
    return f"{rate * 8 / 1e6:.3g} Mbit/s"


def _lines(facts: dict[str, Any]) -> list[str]:
    """State for a person."""
    lines = [f"Router {facts['router']}"]
    for link in facts["links"]:
        limit = f"of {_mbit(link['reservable'])}" if link["reservable"] else "without a bound"
        lines.append(f"  link {link['name']} ({link['device']}): {_mbit(link['reserved'])} reserved {limit}")
    lines.append(f"Senders: {len(facts['senders'])}")
    lines += [
        f"  {s['session']} from {s['sender']}: {_mbit(s['rate'])}, by {s['from']}, to {', '.join(s['out'])}"
        for s in facts["senders"]
    ]
    lines.append(f"Reservations: {len(facts['reservations'])}")
    for r in facts["reservations"]:
        whom = ", ".join(r["senders"]) or "anybody"
        lines.append(
            f"  {r['session']} {r['style']} from {whom}: {_mbit(r['rate'])} {r['service']} on {r['device']}, {r['state']}"
        )
    lines.append(f"Enforced: {sum(each['enforced'] for each in facts['enforced'])} of {len(facts['enforced'])}")
    for each in facts["enforced"]:
        counted = f", {each['packets']} packets within, {each['packets_beyond']} beyond" if "packets" in each else ""
        lines.append(
            f"  {each['session']} on {each['device']}{counted}{', NOT: ' + each['why_not'] if 'why_not' in each else ''}"
        )
    return lines


@rsvp.command()
@click.argument("session", type=SessionType())
@click.option("--source", type=EndpointType(), required=True, help="Address and port that the data come from.")
@_traffic
def announce(
    session: tuple[int, str, int], source: tuple[str, int], socket: str, seconds: float | None, as_json: bool, **given: Any
) -> int:
    """Announce to a receiver what this host sends, so that it can reserve; ends with this command."""

    async def work() -> int:
        async with await Connection.open(Path(socket)) as daemon:
            await daemon.say(Announce(_flow(session, given), source[0], source[1]))
            await daemon.until("announced", 10)
            facts = {"announced": f"{source[0]} port {source[1]}"}
            _say(facts, f"Announced: {facts['announced']}.", "polder reserve, at the receiver", as_json)
            return await _watch(daemon, seconds, as_json)

    return asyncio.run(work())


@click.command()
@click.argument("session", type=SessionType())
@click.option(
    "--from",
    "senders",
    type=EndpointType(),
    multiple=True,
    help="Sender whose data are meant. May be repeated. Default: anybody's.",
)
@click.option("--shared", is_flag=True, help="One reservation for all senders together (style SE) instead of one for each (FF).")
@click.option("--guaranteed-mbit", type=float, help="Guaranteed service at this rate instead of Controlled-Load.")
@click.option("--credentials", metavar="FILE", help="Credentials that pay or allow, one behind the other, a blank line between.")
@click.option(
    "--pay",
    "key_file",
    metavar="KEYFILE",
    help="Private KeyNote key to write a check with, at the price of the offer in the credentials, for the time of --for.",
)
@click.option(
    "--wait", "patience", type=DURATION, default="30s", show_default=True, help="How long to wait for sender and answer."
)
@_traffic
def reserve(
    session: tuple[int, str, int],
    senders: tuple[tuple[str, int], ...],
    shared: bool,
    guaranteed_mbit: float | None,
    credentials: str | None,
    key_file: str | None,
    patience: float,
    socket: str,
    seconds: float | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Reserve bandwidth for what this host receives; ends with this command.

    Exit status 0 when it stood until the end, 1 when a retry may help, 2 when it was refused; the routers' reason is printed.
    """
    style = "WF" if not senders else "SE" if shared else "FF"
    served = guaranteed_mbit * 1e6 / 8 if guaranteed_mbit else None
    asked = Reserve(_flow(session, given), style, senders, served)
    bundle = _bundle(credentials) if key_file is None else _paid(asked, credentials, key_file, seconds, patience)
    asked = Reserve(asked.flow, style, senders, served, bundle)

    async def work() -> int:
        async with await Connection.open(Path(socket)) as daemon:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await daemon.say(asked)
            await daemon.until("confirmed", patience)
            took = round((loop.time() - began) * 1000, 1)
            facts = {"reserved": True, "style": style, "mbit": given["mbit"], "took_ms": took}
            _say(
                facts,
                f"Reserved: {given['mbit']:g} Mbit/s, after {took:g} ms.",
                "polder rsvp show, at any router on the way",
                as_json,
            )
            return await _watch(daemon, seconds, as_json)

    return asyncio.run(work())


def _bundle(path: str | None) -> bytes:
    """The credentials of a file as they travel."""
    if path is None:
        return b""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, "credentials", f"cannot be read: {error}") from error
    return pack_bundle([each.encode() for each in split_assertions(text)])


def _paid(asked: Reserve, credentials: str | None, key_file: str, seconds: float | None, patience: float) -> bytes:
    """A bundle with a new check in front, bound to this session, these senders and this request; it also pays for the waiting."""
    if credentials is None or seconds is None:
        raise ConfigError(
            "command line", "pay", "give --credentials with the offer and the credit, and --for: a check pays for a time"
        )
    if asked.style == "FF" and len(asked.senders) > 1:
        raise ConfigError("command line", "pay", "a check pays for one flow: name one sender, or --shared")
    session, senders, flowspec = texts(asked)
    known = read_credentials(Path(credentials))
    offer = next((terms for _, terms in known if isinstance(terms, OfferTerms)), None)
    credit = next((terms for _, terms in known if isinstance(terms, CreditTerms)), None)
    if offer is None or credit is None:
        raise ConfigError(credentials, "pay", "an offer of the provider and a credit are needed: `polder offer`, `polder credit`")
    wanted = Wanted(session, senders, digest(flowspec), math.ceil(flowspec.rate), math.ceil(seconds + patience))
    terms, text = pay(wanted, offer, credit, read_private(Path(key_file)), secrets.token_hex(16), wall())
    kept = [(each, its) for each, its in known if not isinstance(its, CheckTerms)]
    return pack_bundle([each.encode() for each in order([(text, terms), *kept])])


async def _watch(daemon: Connection, seconds: float | None, as_json: bool) -> int:
    """Print what happens until it is time to end; 1 when the reservation was lost meanwhile."""

    async def listen() -> int:
        while True:
            told = await daemon.hear()
            if not isinstance(told, Told):
                continue
            click.echo(json.dumps(_facts(told)) if as_json else f"{told.kind}: {told.reason or 'yes'}")
            sys.stdout.flush()
            if lost(told):
                raise Refused(Verdict.DENIED, f"the reservation has ended: {told.reason}", retry=True)

    listening = asyncio.create_task(listen())
    ending = asyncio.create_task(_until_told(seconds))
    done, _ = await asyncio.wait({listening, ending}, return_when=asyncio.FIRST_COMPLETED)
    for task in (listening, ending):
        task.cancel()
    return listening.result() if listening in done else 0


def _facts(told: Told) -> dict[str, Any]:
    return {field: getattr(told, field) for field in told.__struct_fields__ if getattr(told, field)}
