"""``polder dashboard``: what ``polder watch`` shows, for a browser on this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys

import click

from polder.api.admin import ask
from polder.cli.answer import common, find_state
from polder.dashboard.choice import Watcher, models
from polder.dashboard.server import Server
from polder.dashboard.source import Source
from polder.dashboard.values import View
from polder.drill.here import rehearse
from polder.drill.plan import What
from polder.drill.run import Order
from polder.settings import StateDir, write_atomic
from polder.settings.state import make_private


@click.command()
@click.option("--listen", default="127.0.0.1:7488", show_default=True, help="Where to listen; loopback only.")
@click.option("--reveal", is_flag=True, help="Tell the names of sites' servlets, which are their secret; allows to burn one.")
@common
def dashboard(listen: str, reveal: bool, state: str | None, as_json: bool) -> int:
    """Show what runs here in a browser: overlay, sites, your own reading.

    The address that is printed holds this session's key: whoever has it sees everything and may act. It is also in dashboard.url
    in the state directory, readable by you only. From elsewhere: ssh -L 7488:127.0.0.1:7488 HOST.
    """
    logging.getLogger("polder").setLevel(logging.CRITICAL)
    return asyncio.run(_serve(find_state(state), listen, reveal, as_json))


async def _serve(state: StateDir, listen: str, reveal: bool, as_json: bool) -> int:
    source = Source(state)
    watcher = Watcher(source, models(source, reveal=reveal))

    async def act(view: View, action: str, choice: str) -> str:
        return await _act(source, view, action, choice)

    server = Server(watcher, act)
    file = state.root / "dashboard.url"
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end, 0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, end, 130)
    try:
        await watcher.begin()
        await server.start(listen)
        make_private(state.root)
        write_atomic(file, server.url.encode() + b"\n", 0o600)
        _tell(server, str(file), as_json)
        return await ended
    finally:
        file.unlink(missing_ok=True)
        await server.close()
        await source.close()


def _tell(server: Server, file: str, as_json: bool) -> None:
    """The session's key goes to a person's terminal; a log, which others may read, learns the place of the file only."""
    if as_json:
        click.echo(json.dumps({"listen": server.address, "url_file": file}))
    elif sys.stdout.isatty():
        click.echo(f"Open {server.url}\nIt ends with Ctrl-C.")
    else:
        click.echo(f"Listening at {server.address}; the address to open is in {file}.")


async def _act(source: Source, view: View, action: str, choice: str) -> str:
    """What the page may do: change a site's servlets, rehearse a failure."""
    if view.kind == "owner":
        return await _serve_site(source, view.title.removeprefix("Site "), action, choice)
    if view.kind == "operator" and action == "drill":
        outcome = await rehearse(source, Order(What.NODE_KILL, 0.2, 15.0), lambda _: None)
        pages = sum(each.loads for each in outcome.phases)
        verdict = "; ".join(outcome.findings) or "users noticed nothing"
        return f"Drill of {', '.join(outcome.nodes)}: {verdict} ({pages} pages read)."
    raise ValueError("there is no such action")


async def _serve_site(source: Source, site: str, action: str, choice: str) -> str:
    socket = source.state.identity("site", site) / "admin.sock"
    if action == "rotate":
        return f"Rotating: epoch {(await ask(socket, 'rotate', {}))['epoch']}."
    burned = await ask(socket, "burn", {"servlet": choice})
    return f"Burned {choice}: {'out of filter and beacons' if burned['carried'] else 'it did not carry, and will not'}."
