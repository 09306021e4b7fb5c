"""``polder connect`` and ``polder browse``: the user's forwarder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from polder.cli import running
from polder.cli.running import LEVELS
from polder.client.shell import Client, start
from polder.settings.client import ClientSettings
from polder.settings.load import load
from polder.settings.state import StateDir
from polder.shell.process import Closeable, run

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "brave-browser", "microsoft-edge")

_OPTIONS = [
    click.option("--state", help="State directory (default: POLDER_STATE, /var/lib/polder, or ~/.local/state/polder)."),
    click.option("--user", help="Whose identity; default: the only one enrolled here."),
    click.option("--listen", help="Where browsers find the forwarder; loopback only [default: 127.0.0.1:7480]."),
    click.option(
        "--plane", type=click.Choice(["spread", "tunnel", "auto"]), help="How tunnels go; default: plane in client.toml."
    ),
    click.option(
        "--redundancy", metavar="COPIES|K+R", help="Over relays: copies per packet (0.5), or datagrams+repairs (20+10)."
    ),
    click.option("--log-level", type=LEVELS, help="Instead of log_level in client.toml."),
]


def _options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_options
@click.option("--json", "as_json", is_flag=True, help="Say where it listens as one JSON line.")
def connect(state: str | None, user: str | None, as_json: bool, **given: str | None) -> int:
    """Run the forwarder until it is interrupted."""

    def ready(shell: Closeable) -> None:
        if not isinstance(shell, Client):
            return
        if as_json:
            click.echo(json.dumps({"proxy": shell.proxy, "pac": shell.pac_url, "sites": list(shell.hosts)}))
        else:
            click.echo(f"Proxy {shell.proxy} · automatic configuration {shell.pac_url}")
            click.echo(f"Sites: {', '.join(shell.hosts) or 'none yet'}. Next: set the PAC in a browser, or `polder browse SITE`.")

    path, load_settings = _settings(state, user, given)
    return run(load_settings, lambda life: start(path, life), ready)


@click.command()
@click.argument("site")
@_options
@click.option("--browser", help="Which browser to start; default: the first Chromium that is found.")
def browse(site: str, state: str | None, user: str | None, browser: str | None, **given: str | None) -> int:
    """Open SITE (a host name, or the first label of one) in a browser of its own that reads it through the overlay."""
    path, load_settings = _settings(state, user, {**given, "listen": given["listen"] or "127.0.0.1:0"})
    program = browser or next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        raise click.UsageError("no Chromium found: name one with --browser, or run `polder connect` and set its PAC in yours")
    with tempfile.TemporaryDirectory(prefix="polder-browser-", ignore_cleanup_errors=True) as profile:
        started: list[subprocess.Popen[bytes]] = []

        def ready(shell: Closeable) -> None:
            if isinstance(shell, Client):
                host = _host(site, shell.hosts)
                click.echo(f"Opening {host}. Close with Ctrl-C; the profile is removed then.")
                flags = [f"--proxy-pac-url={shell.pac_url}", f"--user-data-dir={profile}", "--no-first-run"]
                started.append(subprocess.Popen([program, *flags, f"https://{host}/"]))

        status = run(load_settings, lambda life: start(path, life), ready)
        for process in started:
            process.terminate()
            process.wait()
    return status


def _host(site: str, hosts: tuple[str, ...]) -> str:
    """The host that ``site`` means; raises ``ValueError``."""
    if site in hosts:
        return site
    match [host for host in hosts if host.partition(".")[0] == site]:
        case [host]:
            return host
        case []:
            raise ValueError(f"no site {site!r} in this overlay; known: {', '.join(hosts) or 'none'}")
        case several:
            raise ValueError(f"{site!r} may be {', '.join(several)}: give the whole name")


def _settings(state: str | None, user: str | None, given: dict[str, str | None]) -> tuple[Path, Callable[[], ClientSettings]]:
    directory = StateDir.find(state, os.environ, os.getuid())
    path = directory.only("user", user)
    log_level = given.pop("log_level")
    wished = {name: value for name, value in given.items() if value} | running.log_level(log_level)
    return path, lambda: load(ClientSettings, path / "client.toml", os.environ, wished)
