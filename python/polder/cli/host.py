"""``polder host-helper``: the small privileged process for tunnels and filters."""

from __future__ import annotations

import json
import logging
import os
import pwd
import signal
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import click

from polder.host.client import SOCKET
from polder.host.filters import RUN_DIRECTORY
from polder.host.helper import INNER, Helper
from polder.model import parse_name
from polder.settings import ConfigError
from polder.shell.clock import wall
from polder.shell.logs import setup

log = logging.getLogger("polder.host")


@click.command("host-helper")
@click.option("--socket", "path", default=str(SOCKET), show_default=True, help="Unix socket where agents ask.")
@click.option(
    "--allow-uid",
    multiple=True,
    metavar="UID[:SITE,…]",
    help="User id that may ask, beside root and the helper's own, and whose sites' filters it may change (default: any). "
    "May be repeated.",
)
@click.option("--allow-user", multiple=True, metavar="NAME[:SITE,…]", help="The same by name.")
@click.option(
    "--protect", multiple=True, metavar="NET", help="Network that filters may shut (CIDR); default: any. May be repeated."
)
@click.option(
    "--inner", multiple=True, metavar="NET", help=f"Where tunnels may lead; default: {', '.join(INNER)}. May be repeated."
)
@click.option(
    "--reserve",
    multiple=True,
    metavar="DEVICE",
    help="Device on which `polder rsvpd` may reserve bandwidth; with one at all it gets RSVP's raw socket, with which any packet can be "
    "sent. Default: none. May be repeated.",
)
@click.option(
    "--run-dir", default=str(RUN_DIRECTORY), show_default=True, help="Notes on unconfirmed filters; emptied by a reboot."
)
@click.option("--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object when it is ready.")
def host_helper(
    path: str,
    allow_uid: tuple[str, ...],
    allow_user: tuple[str, ...],
    protect: tuple[str, ...],
    inner: tuple[str, ...],
    reserve: tuple[str, ...],
    run_dir: str,
    log_level: str,
    as_json: bool,
) -> None:
    """Make tunnels and filters for agents that have no rights of their own. Runs until it is told to stop.

    Needs CAP_NET_ADMIN and CAP_NET_RAW. An agent's tunnels and reservations go when it leaves; its filter stays.
    """
    setup(log_level)
    allow = dict([*(_allowed(text, _number) for text in allow_uid), *(_allowed(text, _uid) for text in allow_user)])
    for option, networks in (("protect", protect), ("inner", inner)):
        for network in networks:
            _check_network(option, network)
    helper = Helper(
        Path(path),
        allow,
        wall,
        directory=Path(run_dir),
        protect=protect,
        inner=inner or INNER,
        reserve=frozenset(reserve),
        log=log.warning,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: helper.stop())
    facts = {
        "socket": path,
        "uids": sorted({0, os.geteuid(), *allow}),
        "next": f"set host_helper = {path!r} in node.toml or site.toml",
    }
    click.echo(json.dumps(facts) if as_json else f"Listening at {path}.\nNext: {facts['next']}")
    helper.run()


def _allowed(text: str, find: Callable[[str], int]) -> tuple[int, frozenset[str] | None]:
    who, colon, sites = text.partition(":")
    return find(who), frozenset(map(parse_name, sites.split(","))) if colon else None


def _number(text: str) -> int:
    if not text.isdigit():
        raise ConfigError("command line", "allow-uid", f"{text!r} is not a user id: write a number, or --allow-user NAME")
    return int(text)


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError("command line", "allow-user", f"there is no user {name!r}") from None


def _check_network(option: str, text: str) -> None:
    try:
        ip_network(text)
    except ValueError as error:
        raise ConfigError("command line", option, str(error)) from error
