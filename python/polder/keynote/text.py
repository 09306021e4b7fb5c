"""Assertions as text: fields, tokens, string literals (RFC 2704 §4.1 to §4.3)."""

from __future__ import annotations

import re

from polder.keynote.errors import KeyNoteError, Why
from polder.keynote.limits import Limits

_FIELD = re.compile(r"\n(?![ \t#])")
"""Where a field begins: a line that is neither indented nor a comment."""
_BLANK = re.compile(r"\n[ \t]++\n")
_CONTINUED = re.compile(r"\\\n[ \t\n\r\f]*+")
_SPACE = r"[ \t\n]*+(?:#[^\n]*+[ \t\n]*+)*+"
_LEAD = re.compile(_SPACE)
_STRING = r'"[^"\\\n]*+(?:\\[\s\S][^"\\\n]*+)*+"?'
_TOKENS = re.compile(rf"{_SPACE}([A-Za-z_][A-Za-z0-9_]*+|{_STRING}|&&|==|[0-9]++(?:\.[0-9]++)?+|\|\||!=|<=|>=|~=|->|[^ \t\n]|\Z)")
"""Possessive: no text makes it look twice at a character. It ends with an empty token."""
COMPARISON = re.compile(
    rf'{_SPACE}(@?)([A-Za-z][A-Za-z0-9_]*+){_SPACE}([=<>!]=|<|>){_SPACE}(?:"([^"\\\n]*+)"|([0-9]{{1,9}}+)(?!\.)){_SPACE}(&&|->|;)'
)
"""The commonest test, with what follows it."""
VALUE = re.compile(rf'{_SPACE}"([^"\\\n]*+)"{_SPACE};{_SPACE}\Z')
_WHOLE = re.compile(_STRING.removesuffix("?"))
_ESCAPE = re.compile(r"\\(?:(\n[ \t\n\r\f]*)|(0[0-7]{1,2}|[1-7][0-7]{2})|([\s\S]))")
_NAMED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}
_BETWEEN = re.compile(r"\n(?:[ \t]*\n)+")

_NAMES = ("KeyNote-Version", "Authorizer", "Licensees", "Local-Constants", "Conditions", "Comment", "Signature")
FIELDS = {name: name.lower() for name in _NAMES} | {name.lower(): name.lower() for name in _NAMES}
"""Labels, as most write them and in lower case, to the names used here."""


def decode(text: str | bytes, limits: Limits) -> str:
    """The assertion's characters. KeyNote is ASCII without NUL (§4.1); anything else is refused, as is what is too long."""
    if len(text) > limits.assertion:
        raise KeyNoteError(Why.LIMIT, f"the assertion has {len(text)} bytes; {limits.assertion} are allowed")
    if isinstance(text, bytes):
        try:
            text = text.decode("ascii")
        except UnicodeDecodeError as error:
            raise KeyNoteError(Why.SYNTAX, f"byte {error.start} is not ASCII: write it as an octal escape") from None
    elif not text.isascii():
        raise KeyNoteError(Why.SYNTAX, "a character is not ASCII: write it as an octal escape")
    if "\0" in text or "\r" in text:
        raise KeyNoteError(Why.SYNTAX, "a NUL or carriage return: lines end with a newline alone")
    return text


def split_assertions(text: str) -> list[str]:
    """The assertions of a file, which blank lines separate (§4.1); parts that are only comment are left out."""
    parts = (part.strip("\n") for part in _BETWEEN.split(text.replace("\r\n", "\n")))
    return [part + "\n" for part in parts if part.strip() and _LEAD.fullmatch(part) is None]


def split_fields(text: str) -> tuple[dict[str, str], str]:
    """Fields by lower-case name, and the text that a signature covers but for the algorithm's name (RFC 2792 §4)."""
    text = text.rstrip(" \t\n")
    begin = 0
    if text[:1] in "# \t\n":
        lead = _LEAD.match(text)
        begin = text.rfind("\n", 0, lead.end()) + 1 if lead is not None else 0
    if (" \n" in text or "\t\n" in text) and _BLANK.search(text, begin) is not None:
        raise KeyNoteError(Why.SYNTAX, "a blank line is inside: it ends an assertion")
    if begin >= len(text) or text[begin] == "#":
        raise KeyNoteError(Why.SYNTAX, "there is no field: an assertion begins with one, such as 'Authorizer:'")
    parts = _FIELD.split(text[begin:])
    fields: dict[str, str] = {}
    label: str | None = None
    for part in parts:
        name, colon, body = part.partition(":")
        label = FIELDS.get(name) or FIELDS.get(name.rstrip(" \t").lower())
        if label is None or not colon:
            raise _no_field(part)
        if label in fields:
            raise KeyNoteError(Why.SYNTAX, f"the field {label} appears twice")
        fields[label] = body
    if "keynote-version" in fields and next(iter(fields)) != "keynote-version":
        raise KeyNoteError(Why.SYNTAX, "KeyNote-Version must be the first field")
    if "signature" not in fields:
        return fields, ""
    if label != "signature":
        raise KeyNoteError(Why.SYNTAX, "Signature must be the last field")
    return fields, text[begin : len(text) - len(parts[-1])]


def _no_field(part: str) -> KeyNoteError:
    if not part:
        return KeyNoteError(Why.SYNTAX, "a blank line is inside: it ends an assertion")
    line = part.partition("\n")[0][:40]
    return KeyNoteError(Why.SYNTAX, f"the line {line!r} begins no field of KeyNote: indent lines that continue one")


def tokens(text: str, limits: Limits) -> list[str]:
    """The tokens of a field, and empty ones at the end; comments and spaces are gone."""
    found = _TOKENS.findall(text)
    if len(found) > limits.tokens:
        raise KeyNoteError(Why.LIMIT, f"a field has more than {limits.tokens} tokens")
    found += ("", "", "", "")  # who looks ahead finds nothing, not the list's end
    return found


def string(token: str) -> str:
    """The value of a string literal (§4.3.1)."""
    if "\\" not in token:
        if len(token) > 1 and token[-1] == '"':
            return token[1:-1]
    elif _WHOLE.fullmatch(token) is not None:
        plain = _CONTINUED.sub("", token[1:-1])
        if "\\" not in plain:
            return plain
        return _ESCAPE.sub(_unescape, token[1:-1])
    raise KeyNoteError(Why.SYNTAX, f"the string {token[:40]} has no end on its line")


def plain_string(text: str) -> str | None:
    """The value of a field that is one literal whose only escapes are continued lines; None if it is anything else."""
    if "\\" in text:
        text = _CONTINUED.sub("", text)
        if "\\" in text:
            return None
    if text[:1] == '"' == text[-1:] and text.count('"') == 2 and "\n" not in text:
        return text[1:-1]
    return None


def _unescape(found: re.Match[str]) -> str:
    if found[1] is not None:
        return ""
    if found[2] is not None:
        value = int(found[2], 8)
        return chr(value) if 0 < value < 256 else found[2]
    return _NAMED.get(found[3], found[3])


def quote(value: str) -> str:
    """A literal whose value is ``value`` (characters up to 255, no NUL)."""
    parts = []
    for char in value:
        code = ord(char)
        if char in '"\\':
            parts.append("\\" + char)
        elif 32 <= code < 127:
            parts.append(char)
        elif 0 < code < 256:
            parts.append(f"\\{code:03o}")
        else:
            raise KeyNoteError(Why.SYNTAX, f"character {code} cannot stand in a KeyNote string")
    return '"' + "".join(parts) + '"'
