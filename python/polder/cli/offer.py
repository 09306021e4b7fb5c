"""``polder offer``: an ISP signs prices for reservations on its routes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from polder.bandex import OfferTerms
from polder.bandex.writing import BACKDATE, write
from polder.clearing.files import read_credentials, read_private
from polder.cli.amounts import AMOUNT, OUT, PAY, RATE, describe, put
from polder.cli.answer import DURATION, answer, common, find_state
from polder.keynote.signing import identifier
from polder.settings import ConfigError, load
from polder.settings.money import IspSettings
from polder.shell.clock import wall


@click.group()
def offer() -> None:
    """Prices that an ISP signs for reservations on its routes (isp.toml)."""


@offer.command()
@click.option("--route", required=True, help="A route of isp.toml.")
@click.option("--service", type=click.Choice(["controlled-load", "guaranteed"]), default="controlled-load", show_default=True)
@click.option("--per-mbit-hour", type=AMOUNT, required=True, help="Price of a million bit/s for an hour, such as 0.04.")
@click.option("--setup", type=AMOUNT, default=0, help="Price of each reservation beside that; default: nothing.")
@click.option("--rate", "most_rate", type=RATE, required=True, help="Greatest rate of one reservation, such as 20Mbit.")
@click.option("--for", "most_for", type=DURATION, default="12h", show_default=True, help="Longest reservation.")
@click.option("--life", type=DURATION, default="30d", show_default=True, help="How long the offer holds.")
@OUT
@common
def create(
    route: str,
    service: str,
    per_mbit_hour: int,
    setup: int,
    most_rate: int,
    most_for: float,
    life: float,
    out: Path | None,
    state: str | None,
    as_json: bool,
) -> None:
    """Sign an offer. Hand it to users: they write their checks to it and send it along with them."""
    place = find_state(state)
    settings = load(IspSettings, place.isp / "isp.toml", os.environ)
    if route not in settings.routes:
        known = ", ".join(sorted(settings.routes)) or "none"
        raise ConfigError(str(place.isp / "isp.toml"), "routes", f"there is no route {route!r}; there are: {known}")
    key, now = read_private(place.isp / settings.key_file), wall()
    terms = OfferTerms(
        not_before=int(now) - BACKDATE,
        not_after=int(now + life),
        isp_key=identifier(key),
        isp=settings.name,
        route=route,
        service=service,
        currency=settings.currency,
        setup=setup,
        per_mbit_hour=per_mbit_hour,
        most_rate=most_rate,
        most_seconds=int(most_for),
    )
    text = write(terms, key)
    told = put([text], out)
    answer(terms.facts() | {"text": text}, told, f"polder offer show {out or 'FILE'}", as_json=as_json)


@offer.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@common
def show(file: Path, state: str | None, as_json: bool) -> None:
    """Print what the offers in FILE say. Signatures are not looked at: `polder check explain` does."""
    del state
    found = [terms for _, terms in read_credentials(file) if isinstance(terms, OfferTerms)]
    if not found:
        raise ConfigError(str(file), "", "holds no offer")
    text = "\n".join(line for terms in found for line in describe(terms))
    answer({"offers": [terms.facts() for terms in found]}, text, PAY, as_json=as_json)
