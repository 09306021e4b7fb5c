"""``polder credit``: a provider answers for users' checks, a bank for providers; a user fetches a credit from a portal."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import click

from polder.bandex import CreditTerms, GuaranteeTerms
from polder.bandex.writing import BACKDATE, write
from polder.clearing.files import read_credentials, read_private, read_public
from polder.cli import running
from polder.cli.amounts import AMOUNT, OUT, PAY, describe, put
from polder.cli.answer import DURATION, answer, common, find_state
from polder.cli.running import LEVELS
from polder.cli.statements import AFTER, obtain, tell
from polder.keynote.signing import identifier
from polder.model import Refused, Verdict
from polder.settings import ConfigError, load
from polder.settings.money import ProviderSettings, Tls
from polder.shell.clock import wall
from polder.shell.process import Closeable, Life, run

_KEY = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def credit() -> None:
    """A provider's word that it answers for a user's checks, up to a total (provider.toml)."""


@credit.command()
@click.option("--to", "user", required=True, metavar="KEY", help="The user's KeyNote key, or a file that holds it.")
@click.option("--each", "most", type=AMOUNT, help="Greatest amount of one check; default: `most` of provider.toml.")
@click.option("--total", type=AMOUNT, help="What the credit is good for in all; default: `total` of provider.toml.")
@click.option("--life", type=DURATION, help="How long it is good; default: `life` of provider.toml.")
@OUT
@common
def grant(
    user: str, most: int | None, total: int | None, life: float | None, out: Path | None, state: str | None, as_json: bool
) -> None:
    """Sign a credit for one user; banks' guarantees of provider.toml go along. `polder credit serve` does it for all."""
    place = find_state(state)
    settings = load(ProviderSettings, place.provider / "provider.toml", os.environ)
    key, now = read_private(place.provider / settings.key_file), wall()
    terms = CreditTerms(
        not_before=int(now) - BACKDATE,
        not_after=int(now + (settings.life if life is None else life)),
        provider=identifier(key),
        user=read_public(user),
        currency=settings.currency,
        nonce=secrets.token_hex(16),
        least=settings.least,
        most=settings.most if most is None else most,
        total=settings.total if total is None else total,
    )
    links = [text for file in settings.guarantees for text, _ in read_credentials(place.provider / file)]
    texts = [write(terms, key), *links]
    told = put(texts, out)
    answer(terms.facts() | {"texts": texts}, told, f"polder credit show {out or 'FILE'}", as_json=as_json)


@credit.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@common
def show(file: Path, state: str | None, as_json: bool) -> None:
    """Print what the credits and guarantees in FILE say, and whether they are still good."""
    del state
    now = wall()
    found = [terms for _, terms in read_credentials(file) if isinstance(terms, CreditTerms | GuaranteeTerms)]
    if not found:
        raise ConfigError(str(file), "", "holds no credit and no guarantee")
    ended = [terms for terms in found if terms.not_after <= now]
    lines = [line for terms in found for line in [*describe(terms), *(["  ended"] if terms in ended else [])]]
    facts = {"credits": [terms.facts() | {"ended": terms in ended} for terms in found]}
    step = "polder credit fetch URL" if ended else PAY
    answer(facts, "\n".join(lines), step, as_json=as_json)


@credit.command()
@click.option("--key-file", type=_KEY, required=True, help="The bank's private KeyNote key.")
@click.option("--for", "provider", required=True, metavar="KEY", help="The provider's KeyNote key, or a file that holds it.")
@click.option("--each", "most", type=AMOUNT, required=True, help="Greatest amount of one check.")
@click.option("--currency", default="USD", show_default=True)
@click.option("--life", type=DURATION, default="30d", show_default=True, help="How long it is good.")
@OUT
@common
def guarantee(
    key_file: Path, provider: str, most: int, currency: str, life: float, out: Path | None, state: str | None, as_json: bool
) -> None:
    """Sign, as a bank, that you answer for a provider: ISPs that know you alone then take its users' checks."""
    del state
    key, now = read_private(key_file), wall()
    terms = GuaranteeTerms(
        not_before=int(now) - BACKDATE,
        not_after=int(now + life),
        guarantor=identifier(key),
        provider=read_public(provider),
        currency=currency,
        most=most,
    )
    text = write(terms, key)
    told = put([text], out)
    answer(terms.facts() | {"text": text}, told, "name the file in guarantees of the provider's provider.toml", as_json=as_json)


@credit.command()
@click.option("--log-level", type=LEVELS, help="Instead of log_level in provider.toml.")
@common
def serve(log_level: str | None, state: str | None, as_json: bool) -> int:
    """Run the portal that hands users their credits. With --json a line on standard output says where it listens."""
    from polder.clearing.running import PortalShell

    place = find_state(state)

    def settings() -> ProviderSettings:
        return load(ProviderSettings, place.provider / "provider.toml", os.environ, running.log_level(log_level))

    def ready(shell: Closeable) -> None:
        assert isinstance(shell, PortalShell)
        text = f"The portal listens at {shell.address}."
        answer({"address": shell.address}, text, f"polder credit fetch https://{shell.address}, as a user", as_json=as_json)

    async def start(life: Life[ProviderSettings]) -> Closeable:
        return await PortalShell.start(life.settings, place.provider, life)

    return run(settings, start, ready)


@credit.command()
@common
def reload(state: str | None, as_json: bool) -> int:
    """Have the running portal read provider.toml again. Exit status 3: something that changed waits for an upgrade."""
    return running.reload(find_state(state).provider / "admin.sock", "credit", as_json=as_json)


@credit.command()
@common
def upgrade(state: str | None, as_json: bool) -> None:
    """Have the program that is installed now take over from the running portal; no request is refused meanwhile."""
    running.upgrade(find_state(state).provider / "admin.sock", as_json=as_json)


@credit.command()
@click.argument("url")
@click.option("--member", help="The clearing house's identity in the overlay; not needed with certificates of one's own.")
@click.option("--user", metavar="KEY", help="One of your users' accounts instead of your own: the KeyNote key, or its file.")
@AFTER
@common
def statement(url: str, member: str | None, user: str | None, after: int, state: str | None, as_json: bool) -> None:
    """Print your account at the clearing house at URL, as a provider: what your users spent, and what you were billed.

    The certificate is that of provider.toml.
    """
    from polder.clearing.tls import Membership

    place = find_state(state)
    settings = load(ProviderSettings, place.provider / "provider.toml", os.environ)
    context = Membership.load(settings.tls, place.provider).client(member)
    tell(obtain(url, context, after, read_public(user) if user else None), as_json=as_json)


@credit.command()
@click.argument("url")
@click.option("--key-file", type=_KEY, required=True, help="Your private KeyNote key, with which you will sign checks.")
@click.option("--name", help="Which of the users enrolled here asks; needed when there are several.")
@click.option(
    "--member", required=True, help="The portal's identity in the overlay, such as spiffe://overlay.example.org/node/portal."
)
@click.option("--request", help="32 hexadecimal digits: repeat a request whose answer was lost; default: made up.")
@OUT
@common
def fetch(
    url: str,
    key_file: Path,
    name: str | None,
    member: str,
    request: str | None,
    out: Path | None,
    state: str | None,
    as_json: bool,
) -> None:
    """Ask the provider's portal at URL for a credit, as a user of the overlay."""
    from polder.clearing.client import Client
    from polder.clearing.messages import Granted
    from polder.clearing.tls import Membership

    place = find_state(state)
    who = place.only("user", name)
    membership = Membership.load(Tls(identity=str(who)), who)
    asked = request or secrets.token_hex(16)

    async def ask() -> Granted:
        async with Client(url, membership.client(member)) as client:
            return await client.credit(identifier(read_private(key_file)), asked)

    try:
        granted = asyncio.run(ask())
    except OSError as error:
        raise Refused(Verdict.BUSY, f"{error}; to repeat the same request: --request {asked}", retry=True) from error
    told = put(granted.credentials, out)
    facts = {"texts": list(granted.credentials), "request": asked, "repeated": granted.repeated, "not_after": granted.not_after}
    answer(facts, told, PAY, as_json=as_json)
