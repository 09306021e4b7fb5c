"""``polder keynote``: keys, signatures and queries of RFC 2704, with the files and words of the reference tool (keynote(1))."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from polder.cli.answer import answer
from polder.keynote import Checker, KeyNoteError, Limits, Why, parse, split_assertions
from polder.keynote.checker import Answer
from polder.keynote.explain import as_dict, drawn, explain
from polder.keynote.signatures import ALGORITHMS, verify
from polder.keynote.signing import (
    KINDS,
    LENGTH,
    OFFSET,
    PRIVATE,
    encode_private,
    identifier,
    make_key,
    make_signature,
    read_attributes,
    read_key,
    read_private,
    wrap,
)
from polder.settings import ConfigError, write_atomic

LIMITS = Limits()
"""Those of every checker, also of these commands."""
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
_ACCEPT = click.option(
    "--accept", multiple=True, metavar="ALGORITHM", help="Take this old algorithm too, such as sig-rsa-sha1; repeat it for more."
)
_OFFSET = click.argument("offset", type=click.IntRange(0, 200), default=OFFSET)
_LENGTH = click.argument("length", type=click.IntRange(4, 4000), default=LENGTH)


@click.group()
def keynote() -> None:
    """Keys, signatures and queries of the KeyNote trust-management system (RFC 2704, RFC 2792).

    keygen, sign, sigver and verify read and write the reference tool's files; query explains itself.
    """


@keynote.command()
@click.argument("algorithm")
@click.argument("size", type=int)
@click.argument("public_file")
@click.argument("private_file")
@_OFFSET
@_LENGTH
@_JSON
def keygen(algorithm: str, size: int, public_file: str, private_file: str, offset: int, length: int, as_json: bool) -> None:
    """Make a key pair: keygen ed25519-base64: 256 key.pub key.private

    ALGORITHM is rsa, dsa, ed25519 or ecdsa-p256, then -hex: or -base64:. SIZE in bits counts for rsa and dsa. A file "-" is standard
    output. OFFSET and LENGTH say how lines are broken.
    """
    name = _with_colon(algorithm)
    kind, _, encoding = name[:-1].rpartition("-")
    if kind not in KINDS or encoding not in ("hex", "base64"):
        raise KeyNoteError(
            Why.ALGORITHM, f"Unknown/unsupported algorithm [{name}]: use one of {', '.join(KINDS)}, then -hex: or -base64:"
        )
    if len(PRIVATE + name) + 2 > length:
        raise KeyNoteError(Why.ALGORITHM, f"LENGTH must exceed the algorithm's name, by 2 and {len(PRIVATE)} for the private key")
    if as_json and "-" in (public_file, private_file):
        raise ConfigError("command line", "json", "needs files for both keys: JSON never holds a private one")
    key = make_key(kind, size)
    public = identifier(key, encoding)
    for place, text, mode in ((public_file, public, 0o644), (private_file, encode_private(key, encoding), 0o600)):
        if place != "-":
            write_atomic(Path(place), wrap(text, offset, length).encode(), mode)
        else:
            sys.stdout.write(wrap(text, offset, length))
            if place == public_file == private_file and text is public:
                click.echo("===========================")
    step = f"put {public_file} as Authorizer or Licensees, and sign with `polder keynote sign`"
    if as_json or "-" not in (public_file, private_file):
        answer(
            {"public": public, "private_file": private_file}, f"Wrote {public_file} and {private_file}.", step, as_json=as_json
        )


@keynote.command()
@click.option("-v", "check", is_flag=True, help="Verify the new signature with the Authorizer's key.")
@click.argument("algorithm")
@click.argument("assertion_file")
@click.argument("private_file")
@_OFFSET
@_LENGTH
@_JSON
def sign(check: bool, algorithm: str, assertion_file: str, private_file: str, offset: int, length: int, as_json: bool) -> None:
    """Print the signature of an assertion, to be put behind its last line "Signature:".

    ALGORITHM is such as sig-ed25519-base64:, sig-rsa-sha256-hex: or, for old readers, sig-rsa-sha1-hex:. PRIVATE_FILE is of keygen, or a
    PEM without a password, as whoever has a certificate (x509-base64:) keeps his key.
    """
    name, text = _with_colon(algorithm), _read(assertion_file)
    signature = make_signature(text, read_private(_read(private_file)), name)
    if check:
        signed = parse(text.rstrip().removesuffix(":") + ":\n" + wrap(signature))
        verify(signed.signed, signature, signed.resolve({}, LIMITS)[0], frozenset(ALGORITHMS), LIMITS)
    if as_json:
        answer({"signature": signature}, "", "put it behind the assertion's line Signature:", as_json=True)
    else:
        sys.stdout.write(wrap(signature, offset, length))


@keynote.command()
@click.argument("assertion_file")
@_ACCEPT
@_JSON
def sigver(assertion_file: str, accept: tuple[str, ...], as_json: bool) -> int:
    """Verify the signatures of all assertions in a file. Old algorithms verify too: whether they are trusted is a query's matter.

    Exit status 2 if one does not verify.
    """
    results: list[dict[str, Any]] = []
    for text in split_assertions(_read(assertion_file)):
        try:
            one = parse(text)
            if not one.signature:
                raise KeyNoteError(Why.UNSIGNED, "the assertion has no signature")
            accepted = frozenset(accept) or frozenset(ALGORITHMS)
            name = verify(one.signed, one.signature, one.resolve({}, LIMITS)[0], accepted, LIMITS)
            results.append({"verified": True, "algorithm": name, "old": ALGORITHMS[name].old})
        except KeyNoteError as error:
            results.append({"verified": False, "kind": error.kind, "why": str(error)})
    if not results:
        raise KeyNoteError(Why.SYNTAX, f"{assertion_file} holds no assertion")
    lines = [
        "Signature verified." + (" Its algorithm is old: queries refuse it unless a policy names it." if result["old"] else "")
        if result["verified"]
        else f"Signature did not verify! {result['why']} ({result['kind']})"
        for result in results
    ]
    failed = not all(result["verified"] for result in results)
    step = "sign again with the Authorizer's key, or ask who sent it" if failed else "ask with `polder keynote query`"
    answer({"assertions": results}, "\n".join(lines), step, as_json=as_json)
    return 2 if failed else 0


@dataclass(frozen=True)
class Asked:
    """What ``verify`` and ``query`` are asked: files, as options name them."""

    retlist: str
    environments: tuple[str, ...]
    local: tuple[str, ...]
    keys: tuple[str, ...]
    files: tuple[str, ...]
    old: bool
    accept: tuple[str, ...]

    def query(self, given: tuple[str, ...] = (), *, require_conditions: bool = False) -> Answer:
        """The answer with every assertion's part; ``given``: further attributes, as NAME=VALUE."""
        attributes: dict[str, str] = {}
        for place in self.environments:
            attributes |= read_attributes(_read(place), LIMITS)
        for pair in given:
            name, equals, value = pair.partition("=")
            if not equals:
                raise ConfigError("command line", "attribute", f"{pair!r} is not NAME=VALUE")
            attributes[name] = value
        taken = tuple(name for name, algorithm in ALGORITHMS.items() if algorithm.old) if self.old else self.accept
        return Checker(LIMITS, taken).query(
            _assertions(self.local),
            _assertions(self.files),
            [read_key(_read(place), LIMITS) for place in self.keys],
            attributes,
            self.retlist.split(","),
            require_conditions=require_conditions,
            whole=True,
        )


def _asked(function: Callable[..., Any]) -> Any:
    """The options that ``verify`` and ``query`` share, as one ``Asked`` in front of the others."""

    @functools.wraps(function)
    def gathered(**given: Any) -> Any:
        asked = Asked(**{field.name: given.pop(field.name) for field in fields(Asked)})
        return function(asked, **given)

    made: Any = gathered
    for option in reversed(
        (
            click.option(
                "-r", "retlist", required=True, metavar="LIST", help="Values, from the least to the most, with commas between."
            ),
            click.option("-e", "environments", multiple=True, metavar="FILE", help='Attributes of the action: name = "value".'),
            click.option("-l", "local", multiple=True, required=True, metavar="FILE", help="Trusted assertions: policies."),
            click.option("-k", "keys", multiple=True, required=True, metavar="FILE", help="A key that asks for the action."),
            click.argument("files", nargs=-1),
            click.option("--old", is_flag=True, help="Take all old signature algorithms."),
            _ACCEPT,
            _JSON,
        )
    ):
        made = option(made)
    return made


@keynote.command("verify")
@_asked
def verify_command(asked: Asked, as_json: bool) -> None:
    """Ask a query, as the reference tool does: what do these assertions (FILES are untrusted) say of an action?"""
    found = asked.query()
    lines = [f"Query result = {found.value}"]
    for number, entry in enumerate(found.entries):
        if entry.error is not None:
            what = "signature verification failure" if entry.error.kind in _SIGNATURES else "syntax or semantic error"
            lines.append(f"Failed assertion {number} due to {what}.")
    step = "" if found.passed else "`polder keynote query --explain` with the same arguments says why"
    answer({"value": found.value, "passed": found.passed}, "\n".join(lines), step, as_json=as_json)


_SIGNATURES = (Why.SIGNATURE, Why.UNSIGNED, Why.ALGORITHM, Why.KEY)


@keynote.command()
@_asked
@click.option(
    "--attribute", "-a", "given", multiple=True, metavar="NAME=VALUE", help="An attribute of the action, beside those of -e."
)
@click.option(
    "--explain", "explained", is_flag=True, help="Draw the delegation graph, and say of each assertion why it counted or not."
)
@click.option("--require-conditions", is_flag=True, help="Refuse credentials without Conditions, as where money is spent.")
def query(asked: Asked, given: tuple[str, ...], explained: bool, require_conditions: bool, as_json: bool) -> int:
    """Ask what assertions say of an action, and why. A file may hold several, with blank lines between.

    Exit status 2 if the answer is not the highest value.
    """
    found = asked.query(given, require_conditions=require_conditions)
    lines = [f"Query result = {found.value}"]
    if explained:
        lines += ["", "Who trusts whom:", *("  " + line for line in drawn(found)), "", "Assertions:"]
        for note in explain(found, LIMITS):
            sort = "policy" if note.trusted else "credential"
            lines.append(f"  {note.number}. {sort} of {note.authorizer} for {note.licensees}: {note.kind}")
            lines.append(f"     {note.why}")
    step = "" if found.passed or explained else "ask again with --explain"
    answer(as_dict(found, LIMITS), "\n".join(lines), step, as_json=as_json)
    return 0 if found.passed else 2


def _assertions(places: tuple[str, ...]) -> list[str]:
    return [text for place in places for text in split_assertions(_read(place))]


def _with_colon(name: str) -> str:
    if name.endswith(":"):
        return name
    click.echo(f"Algorithm name [{name}] should be terminated with a colon, fixing.", err=True)
    return name + ":"


def _read(place: str) -> str:
    try:
        data = sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
    except OSError as error:
        raise ConfigError(place, "", f"cannot be read: {os.strerror(error.errno or 0)}") from error
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise ConfigError(place, "", f"byte {error.start} is not ASCII; KeyNote files are") from error
