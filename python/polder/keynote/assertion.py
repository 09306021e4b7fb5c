"""One assertion, parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polder.keynote import expr
from polder.keynote.errors import Fault, KeyNoteError, Why
from polder.keynote.expr import Scope, Tree
from polder.keynote.keys import Principal, principal, show
from polder.keynote.limits import Limits
from polder.keynote.parser import Parser, Program, conditions, string_field
from polder.keynote.text import decode, plain_string, split_fields


class Assertion:
    """An assertion whose syntax is right (RFC 2704 §4). Nothing is said of its signature.

    ``authorizer`` and ``licensees`` are resolved when they name literals and constants alone; else they are None and
    ``resolve`` makes them of an action's attributes (§4.4, §4.6.3).
    """

    __slots__ = (
        "_author",
        "_licensees",
        "authorizer",
        "comment",
        "conditions",
        "constants",
        "licensees",
        "names",
        "open",
        "signature",
        "signed",
        "text",
    )

    def __init__(self, text: str, limits: Limits) -> None:
        self.text = text
        fields, self.signed = split_fields(text)
        if "authorizer" not in fields:
            raise KeyNoteError(Why.SYNTAX, "there is no Authorizer field")
        if fields.get("keynote-version", "2").strip(" \t") != "2":
            Parser(fields["keynote-version"], limits).version()
        self.comment = fields.get("comment", "").strip()
        self.constants = Parser(fields.get("local-constants", ""), limits).constants() if "local-constants" in fields else {}
        self.conditions: Program | None = None
        if "conditions" in fields:
            self.conditions = conditions(fields["conditions"], limits)
        self._author = string_field(fields["authorizer"], limits)
        self._licensees: Tree | None = None
        self.open = "licensees" not in fields
        """No Licensees field at all: worth _MAX_TRUST (§5.3.5)."""
        if not self.open:
            self._licensees = _licensees(fields["licensees"], limits)
        self.authorizer: Principal | None = None
        self.licensees: Tree | None = None
        self.names: tuple[Principal, ...] = ()
        self.signature: str | None = None
        constants = Scope(self.constants, limits)
        if "signature" in fields:
            self.signature = self._signature(fields["signature"], constants, limits)
        if _fixed(self._author, self.constants) and _fixed(self._licensees, self.constants):
            self.authorizer, self.licensees, self.names = self._resolve(constants)

    def resolve(self, attributes: Mapping[str, str], limits: Limits) -> tuple[Principal, Tree | None, tuple[Principal, ...]]:
        """Authorizer, licensees and the principals among them, for an action with these attributes."""
        if self.authorizer is not None:
            return self.authorizer, self.licensees, self.names
        return self._resolve(Scope({**attributes, **self.constants}, limits))

    def _resolve(self, scope: Scope) -> tuple[Principal, Tree | None, tuple[Principal, ...]]:
        names: list[Principal] = []
        tree = self._licensees
        try:
            if tree is not None and tree[0] == "is":
                alone = principal(tree[1][0](tree[1], scope))
                return principal(self._author[0](self._author, scope)), ("is", alone), (alone,)
            author = principal(self._author[0](self._author, scope))
            licensees = None if self._licensees is None else _resolved(self._licensees, scope, names)
        except Fault as error:
            raise KeyNoteError(Why.SYNTAX, f"a principal cannot be made out: {error}") from None
        return author, licensees, tuple(dict.fromkeys(names))

    @staticmethod
    def _signature(field: str, scope: Scope, limits: Limits) -> str:
        field = field.strip(" \t\n")
        value = plain_string(field)
        if value is not None or not field:
            return value or ""
        tree = string_field(field, limits)
        try:
            return str(tree[0](tree, scope))
        except Fault as error:
            raise KeyNoteError(Why.SYNTAX, f"the signature cannot be made out: {error}") from None


def parse(text: str | bytes, limits: Limits | None = None) -> Assertion:
    """Parse one assertion. KeyNoteError says what is wrong with it, or which limit it exceeds."""
    limits = limits or Limits()
    return Assertion(decode(text, limits), limits)


def licensees_text(tree: Tree | None) -> str:
    """Resolved licensees for people."""
    if tree is None:
        return "nobody"
    kind = tree[0]
    if kind == "is":
        return show(tree[1])
    if kind == "of":
        return f"{tree[1]}-of({', '.join(map(licensees_text, tree[2]))})"
    return "(" + f" {kind} ".join(map(licensees_text, tree[1])) + ")"


def _licensees(field: str, limits: Limits) -> Tree | None:
    """The Licensees field; most name one principal."""
    plain = field.strip(" \t\n")
    if plain.isidentifier():
        return ("is", (expr.attribute, plain))
    value = plain_string(plain)
    return ("is", (expr.literal, value)) if value is not None else Parser(plain, limits).licensees()


def _resolved(tree: Tree, scope: Scope, names: list[Principal]) -> Tree:
    kind = tree[0]
    if kind == "is":
        who = principal(tree[1][0](tree[1], scope))
        names.append(who)
        return ("is", who)
    if kind == "of":
        return ("of", tree[1], [_resolved(part, scope, names) for part in tree[2]])
    return (kind, [_resolved(part, scope, names) for part in tree[1]])


def _fixed(tree: Any, constants: Mapping[str, str]) -> bool:
    """Whether a principal expression asks nothing of the action."""
    if tree is None or tree[0] is expr.literal:
        return True
    if tree[0] is expr.attribute:
        return tree[1] in constants
    if tree[0] is expr.concatenate:
        return _fixed(tree[1], constants) and _fixed(tree[2], constants)
    if tree[0] == "is":
        return _fixed(tree[1], constants)
    if tree[0] in ("&&", "||"):
        return all(_fixed(part, constants) for part in tree[1])
    return tree[0] == "of" and all(_fixed(part, constants) for part in tree[2])
