"""Expressions of the Conditions and principal fields: trees and what they are worth (RFC 2704 §4.4, §4.6.5, §5.3.4).

A tree is a tuple whose first item is the function that evaluates it: ``tree[0](tree, scope)``. `SORT` says what such a function returns.
Integers are C ``long`` of 32 bits and floats C ``float``, as §4.4 says; what leaves their range is a runtime error. Literals of floats
are rounded to 32 bits as well, so that ``&x >= 0.44`` holds for "0.44".
"""

from __future__ import annotations

import operator
import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from polder.keynote.errors import Fault
from polder.keynote.limits import Limits
from polder.keynote.regex import Regex

Tree = tuple[Any, ...]

_NUMBER = re.compile(r"([+-]?)(?=[0-9.])([0-9]{0,40})(?:\.([0-9]{0,40}))?")
_FLOAT = struct.Struct("f")
LEAST, MOST = -(2**31), 2**31 - 1


class Scope:
    """What an assertion sees: attributes under its own constants, groups of the last match, and what is left of its budget."""

    __slots__ = ("budget", "groups", "limits", "vars")

    def __init__(self, values: dict[str, str], limits: Limits) -> None:
        self.vars = values
        self.limits = limits
        self.budget = [limits.regex_steps]
        self.groups: dict[str, str] = {}

    def get(self, name: str) -> str:
        """The value of an attribute; empty if nobody gave it (§3)."""
        value = self.vars.get(name)
        return self.groups.get(name, "") if value is None else value

    def match(self, regex: Regex, text: str) -> bool:
        """Whether ``text`` contains a match; its groups become ``_0``, ``_1`` and so on. One that fails leaves no groups at all."""
        groups = regex.search(text, self.budget)
        if groups is None:
            self.groups = {}
            return False
        self.groups = {"_0": str(len(groups))} | {f"_{n}": found for n, found in enumerate(groups, 1)}
        return True


def to_int(text: str) -> int:
    """``@text``: rounded down; 0 if it is no number or out of range (§4.6.5)."""
    if text.isdigit() and len(text) < 10 and text.isascii():
        return int(text)
    found = _NUMBER.fullmatch(text)
    if found is None or not (found[2] or found[3]):
        return 0
    value = int(found[2] or "0")
    if found[1] == "-":
        value = -value - (1 if found[3] and found[3].strip("0") else 0)
    return value if LEAST <= value <= MOST else 0


_remembered_int = lru_cache(maxsize=1024)(to_int)


def _known_int(text: str) -> int:
    """The same; every assertion of a chain asks for the same few numbers."""
    return _remembered_int(text) if len(text) < 32 else to_int(text)


def single(value: float) -> float:
    """Rounded to 32 bits; a runtime error when that is infinite or no number."""
    try:
        rounded: float = _FLOAT.unpack(_FLOAT.pack(value))[0]
    except (OverflowError, struct.error):
        raise Fault("a float out of range") from None
    if rounded - rounded != 0:
        raise Fault("a float out of range")
    return rounded


def to_float(text: str) -> float:
    """``&text``; 0 if it is no number or out of range."""
    found = _NUMBER.fullmatch(text)
    if found is None or not (found[2] or found[3]):
        return 0.0
    try:
        return single(float(text))
    except Fault:
        return 0.0


def _int(value: int) -> int:
    if LEAST <= value <= MOST:
        return value
    raise Fault("an integer out of range")


def _divide(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _int_power(a: int, b: int) -> int:
    if b < 0 or (b > 31 and not -1 <= a <= 1):
        raise Fault("a power out of range")
    return int(a ** (b if b <= 31 else 2 + b % 2))


def _float_power(a: float, b: float) -> float:
    value: float | complex = a**b
    if isinstance(value, complex):
        raise Fault("a power that is no real number")
    return value


INT_OPS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "%": lambda a, b: a - b * _divide(a, b),
    "^": _int_power,
}
FLOAT_OPS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": _float_power,
}
RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def literal(tree: Tree, _scope: Scope) -> Any:
    """A string: ``(literal, value)``."""
    return tree[1]


def int_literal(tree: Tree, _scope: Scope) -> Any:
    """An integer: ``(int_literal, value)``."""
    return tree[1]


def float_literal(tree: Tree, _scope: Scope) -> Any:
    """A float: ``(float_literal, value)``."""
    return tree[1]


def attribute(tree: Tree, scope: Scope) -> Any:
    """``(attribute, name)``: its value, or the empty string."""
    return scope.get(tree[1])


def dereference(tree: Tree, scope: Scope) -> Any:
    """``(dereference, string)``: the value of the attribute that the string names."""
    return scope.get(tree[1][0](tree[1], scope))


def concatenate(tree: Tree, scope: Scope) -> Any:
    """``(concatenate, a, b)``."""
    value = tree[1][0](tree[1], scope) + tree[2][0](tree[2], scope)
    if len(value) > scope.limits.value:
        raise Fault(f"a string longer than {scope.limits.value}")
    return value


def as_int(tree: Tree, scope: Scope) -> Any:
    """``(as_int, string)``."""
    return to_int(tree[1][0](tree[1], scope))


def as_float(tree: Tree, scope: Scope) -> Any:
    """``(as_float, string)``."""
    return to_float(tree[1][0](tree[1], scope))


def int_minus(tree: Tree, scope: Scope) -> Any:
    """``(int_minus, integer)``."""
    return _int(-tree[1][0](tree[1], scope))


def float_minus(tree: Tree, scope: Scope) -> Any:
    """``(float_minus, float)``."""
    return -tree[1][0](tree[1], scope)


def int_operation(tree: Tree, scope: Scope) -> Any:
    """``(int_operation, a, b, sign)``."""
    try:
        return _int(INT_OPS[tree[3]](tree[1][0](tree[1], scope), tree[2][0](tree[2], scope)))
    except ZeroDivisionError:
        raise Fault("a division by zero") from None


def float_operation(tree: Tree, scope: Scope) -> Any:
    """``(float_operation, a, b, sign)``."""
    try:
        return single(FLOAT_OPS[tree[3]](tree[1][0](tree[1], scope), tree[2][0](tree[2], scope)))
    except ZeroDivisionError:
        raise Fault("a division by zero") from None
    except OverflowError:
        raise Fault("a float out of range") from None


def relation(tree: Tree, scope: Scope) -> Any:
    """``(relation, a, b, sign, function)``: both strings, both integers or both floats."""
    return tree[4](tree[1][0](tree[1], scope), tree[2][0](tree[2], scope))


def attribute_is(tree: Tree, scope: Scope) -> Any:
    """``(attribute_is, name, value, sign, function)``: ``name == "value"`` and its like, of a name without leading ``_``."""
    return tree[4](scope.vars.get(tree[1], ""), tree[2])


def attribute_equals(tree: Tree, scope: Scope) -> Any:
    """``(attribute_equals, name, value, sign, function)``: the commonest of these."""
    return scope.vars.get(tree[1], "") == tree[2]


def number_is(tree: Tree, scope: Scope) -> Any:
    """``(number_is, name, value, sign, function)``: ``@name < 7`` and its like, of a name without leading ``_``."""
    return tree[4](_known_int(scope.vars.get(tree[1], "")), tree[2])


def matches(tree: Tree, scope: Scope) -> Any:
    """``(matches, text, expression, compiled)``: compiled is None where the expression is no literal."""
    text = tree[1][0](tree[1], scope)
    regex = tree[3]
    if regex is None:
        pattern = tree[2][0](tree[2], scope)
        scope.budget[0] -= len(pattern) >> 1
        if scope.budget[0] < 0:
            raise Fault("regular expressions cost more than is allowed")
        regex = Regex(pattern, scope.limits.regex)
    return scope.match(regex, text)


def constant(tree: Tree, _scope: Scope) -> Any:
    """``(constant, bool)``."""
    return tree[1]


def negation(tree: Tree, scope: Scope) -> Any:
    """``(negation, test)``."""
    return not tree[1][0](tree[1], scope)


def conjunction(tree: Tree, scope: Scope) -> Any:
    """``(conjunction, tests)``."""
    for part in tree[1]:  # noqa: SIM110 (half the time of all() with a generator)
        if not part[0](part, scope):
            return False
    return True


def disjunction(tree: Tree, scope: Scope) -> Any:
    """``(disjunction, tests)``."""
    return any(part[0](part, scope) for part in tree[1])


SORT: dict[Callable[..., Any], str] = {
    **dict.fromkeys((literal, attribute, dereference, concatenate), "string"),
    **dict.fromkeys((int_literal, as_int, int_minus, int_operation), "integer"),
    **dict.fromkeys((float_literal, as_float, float_minus, float_operation), "float"),
    **dict.fromkeys(
        (relation, attribute_is, attribute_equals, number_is, matches, constant, negation, conjunction, disjunction), "test"
    ),
}


def holds(tree: Tree, scope: Scope) -> bool:
    """Whether a test succeeds; a runtime error makes it fail (§5.3.4)."""
    try:
        return bool(tree[0](tree, scope))
    except Fault:
        return False
