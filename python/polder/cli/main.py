"""The ``polder`` command: a table of commands, each imported when it is used, so that ``polder --help`` is quick."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import click

from polder import __version__
from polder.model import Refused
from polder.settings.base import ConfigError

COMMANDS: dict[str, tuple[str, str, str]] = {
    # operator
    "init": ("polder.cli.authority:init", "Operator", "found an overlay: its authority and, if named, its first node"),
    "invite": ("polder.cli.authority:invite", "Operator", "make a one-use token for a node, user, site or admin"),
    "join": ("polder.cli.enrol:join", "Operator", "enrol this machine as a node"),
    "node": ("polder.cli.node:node", "Operator", "run a node"),
    "authority": ("polder.cli.authority:authority", "Operator", "serve enrolment and renewal"),
    "status": ("polder.cli.status:status", "Operator", "what runs here, and the next step"),
    "watch": ("polder.cli.watch:watch", "Operator", "the dashboard in a terminal: overlay, site or user"),
    "dashboard": ("polder.cli.dashboard:dashboard", "Operator", "the same in a browser on this machine"),
    "plan": ("polder.cli.plan:plan", "Operator", "how many beacons, servlets, access points survive an attack on nodes"),
    "drill": ("polder.cli.drill:drill", "Operator", "rehearse a failure in the running overlay"),
    "incident": ("polder.cli.incident:incident", "Operator", "export what happened, for after an attack; show an export"),
    "revoke": ("polder.cli.revoke:revoke", "Operator", "stop believing an identity or a key, on every node at once"),
    "rotate": ("polder.cli.rotate:rotate", "Operator", "replace the authority's issuer, in steps that can be taken back"),
    "backup": ("polder.cli.backup:backup", "Operator", "put the whole authority into one encrypted file"),
    "restore": ("polder.cli.backup:restore", "Operator", "bring an authority back from its backup, or only verify it"),
    "rsvpd": ("polder.cli.rsvp:rsvpd", "Provider", "run the reservation daemon of a host or router"),
    "rsvp": ("polder.cli.rsvp:rsvp", "Provider", "show reservations; announce what this host sends"),
    "pdp": ("polder.cli.pdp:pdp", "Provider", "judge reservations for several routers"),
    # site
    "protect": ("polder.cli.protect:protect", "Site owner", "put a site behind the overlay"),
    "filter": ("polder.cli.perimeter:filter_group", "Site owner", "plan, apply and export the perimeter filter"),
    "site": ("polder.cli.site:site", "Site owner", "run a site's agent"),
    # user
    "enroll": ("polder.cli.enrol:enroll", "User", "take a user's or site's identity from a token"),
    "browse": ("polder.cli.client:browse", "User", "open a browser that reads sites through the overlay"),
    "connect": ("polder.cli.client:connect", "User", "run the forwarder"),
    "paths": ("polder.cli.paths:paths", "User", "the relays over which tunnels go, and how each is doing"),
    "client": ("polder.cli.profile:client", "User", "profiles for browsers without a forwarder"),
    "reserve": ("polder.cli.rsvp:reserve", "User", "reserve bandwidth for what this host receives"),
    # reservations
    "offer": ("polder.cli.offer:offer", "Reservations", "ISP: sign prices for reservations on its routes"),
    "credit": ("polder.cli.credit:credit", "Reservations", "provider: answer for users' checks; user: fetch a credit"),
    "check": ("polder.cli.check:check", "Reservations", "explain whether a reservation's credentials pay for it, and why not"),
    "settle": ("polder.cli.settle:settle", "Reservations", "ISP: deposit the checks that were taken, show the account"),
    "clearing": ("polder.cli.clearing:clearing", "Reservations", "run a clearing house: accounts, settlement, audit"),
    # everybody
    "doctor": ("polder.cli.doctor:doctor", "Everybody", "find what is wrong on this machine"),
    "config": ("polder.cli.config:config", "Everybody", "check configuration, print its schema"),
    "host-helper": ("polder.cli.host:host_helper", "Everybody", "the small privileged process for tunnels and filters"),
    "keynote": ("polder.cli.keynote:keynote", "Everybody", "keys, signatures and queries of KeyNote (RFC 2704)"),
    "demo": ("polder.cli.demo:demo", "Laboratory", "the whole story on this machine, in namespaces"),
    "lab": ("polder.cli.lab:lab", "Laboratory", "run experiments, list results and claims"),
}


class Menu(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The menu, by kind of person, from the table alone."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, (_, group, text) in COMMANDS.items():
            groups.setdefault(group, []).append((name, text))
        for group, rows in groups.items():
            with formatter.section(group):
                formatter.write_dl(rows)


@click.command(cls=Menu, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="polder")
def polder() -> None:
    """Keep web sites reachable and fast while they are flooded."""


def fail(error: Refused | OSError | ValueError, as_json: bool) -> int:
    """Say cause and fix on stderr; return the exit status: 1 a retry may help, 2 refused or invalid."""
    retry = error.retry if isinstance(error, Refused) else isinstance(error, OSError)
    if as_json:
        record: dict[str, Any] = {"error": str(error), "retry_may_help": retry}
        if isinstance(error, Refused):
            record["verdict"] = str(error.verdict)
        if isinstance(error, ConfigError):
            record |= {"source": error.source, "line": error.line, "key": error.key}
        click.echo(json.dumps(record), err=True)
    else:
        click.echo(f"polder: {error}", err=True)
        if retry:
            click.echo("A retry may help.", err=True)
    return 1 if retry else 2


def main() -> None:
    """Entry point of the installed command."""
    try:
        result = polder.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except (Refused, OSError, ValueError) as error:
        sys.exit(fail(error, "--json" in sys.argv))
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
