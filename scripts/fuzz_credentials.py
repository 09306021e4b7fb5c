"""Fuzz targets of what payers send: KeyNote assertions, conditions, regular expressions, keys. Used by ``scripts.fuzz_messages``."""

from __future__ import annotations

import random
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ed25519

from polder.keynote import Checker, KeyNoteError, Why, parse, principal
from polder.keynote.errors import Fault
from polder.keynote.explain import as_dict, explain
from polder.keynote.regex import Regex
from polder.keynote.signing import identifier, sign

WORDS = (
    *(b"Authorizer: ", b"Licensees: ", b"Conditions: ", b"\nSignature: ", b"Local-Constants: ", b"KeyNote-Version: 2\n"),
    *(
        b'"POLICY"',
        b"2-of(",
        b"-> {",
        b"};",
        b"&&",
        b"||",
        b"~= ",
        b'"(a*)*b"',
        b"$$",
        b"@",
        b"&x",
        b"1/0",
        b"\\\n",
        b"\\101",
        b"#",
    ),
    *(b"((((((((((((((((", b"rsa-hex:30", b"binary-base64:AA==", b"_0", b"[[:alpha:]]", b"{1,255}", b"{255}", b"|()"),
)


def _assertion(data: bytes) -> None:
    """What is read is worth something in a query as policy and as credential, is explained, and reads the same again."""
    one = parse(data)
    answer = Checker().query([one], [data], ["me"], {"a": "b", "amount": "44"}, ("no", "some", "true"), whole=True)
    assert len(explain(answer)) == 2
    assert as_dict(answer)["value"] in ("no", "some", "true")
    assert parse(one.text).signed == one.signed


def _conditions(data: bytes) -> None:
    """The bytes are the Conditions of a policy."""
    _assertion(b'Authorizer: "POLICY"\nLicensees: "me"\nConditions: ' + data)


def _regex(data: bytes) -> None:
    """The first line is an expression, the rest the text; the budget is never left behind by more than one step's worth."""
    pattern, _, text = data.decode("latin-1").partition("\n")
    budget = [4000]
    try:
        Regex(pattern, 512).search(text[:8192], budget)
    except Fault as fault:
        raise KeyNoteError(Why.SYNTAX, str(fault)) from None
    finally:
        assert budget[0] > -4000


def _key(data: bytes) -> None:
    """A key that is read has one normal form."""
    text = data.decode("ascii")
    form = principal(text)
    assert principal(text) == form


TARGETS: dict[str, Callable[[bytes], None]] = {
    "keynote-assertion": _assertion,
    "keynote-conditions": _conditions,
    "keynote-regex": _regex,
    "keynote-key": _key,
}


def make_seeds(write: Callable[[str, str, bytes], None]) -> None:
    """Real credentials and what they are made of."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(random.Random(1).randbytes(32))  # noqa: S311 - a seed of a fuzzer
    who = identifier(key)
    conditions = (
        'app_domain == "Polder-BandEx" && @amount >= 1 && @amount < 560000 -> "true";',
        'a == "b" -> { @x < 3 -> "some"; &y > 1.5 -> _MAX_TRUST; };',
        'address ~= "^([a-z]+)@(([a-z]+\\\\.)*)nl$" && _1 == "me" && $("a" . "b") . "c" != "d" || !(2 ^ 3 % 3 == -1);',
    )
    for number, text in enumerate(conditions):
        write("keynote-conditions", str(number), text.encode())
        body = (
            f'KeyNote-Version: 2\nLocal-Constants: ME = "{who}" YOU = "you"\nAuthorizer: ME\nLicensees: YOU\nConditions: {text}\n'
        )
        write("keynote-assertion", str(number), sign(body, key).encode())
    write(
        "keynote-assertion",
        "threshold",
        b'Authorizer: "POLICY" # root\nLicensees: 2-of("a", "b", "c") && ("d" || "e")\nComment: x\n',
    )
    for number, pattern in enumerate((r"^(a|ab)(c|bcd)(d*)$", r"([[:digit:]]+|[^]a-c]){2,3}", r"((a*)*|b.?)+\.")):
        write("keynote-regex", str(number), pattern.encode() + b"\nabcd012")
    write("keynote-key", "ed25519", who.encode())
    write("keynote-key", "rsa", b"rsa-hex:3010020900c84ba13651e2b6b10203010001")
    write("keynote-key", "dsa", b"dsa-hex:300c020103020107020105020102")
