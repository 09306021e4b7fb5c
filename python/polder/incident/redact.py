"""``Redactor``: what an export must not tell. No I/O.

Secrets (keys, tokens, passwords, GRE keys) go always. Names of users and nodes and addresses become pseudonyms, the same one
throughout one export and another one in the next: HMAC-SHA-256 under a key that is drawn for the export and kept nowhere. Node names
too, because a site's servlets are among them. Names of sites stay: they are what an incident is about.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

GONE = "[removed]"
_SECRET_KEY = re.compile(r"(?i)(^|_)(key|keys|secret|secrets|password|passphrase|token|cookie|authorization)$")
_NOT_SECRET = frozenset({"ring_key", "first_key"})
_SECRETS = (
    re.compile(r"-----BEGIN [A-Z ]+-----.*?(-----END [A-Z ]+-----|\Z)", re.DOTALL),
    re.compile(r"polder-token-[A-Za-z0-9_-]+"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
)
_TOML_SECRET = re.compile(r"(?im)^(\s*\"?[a-z0-9_.-]*(?:key|secret|password|passphrase|token)\"?\s*=\s*).*$")
_IDENTITY = re.compile(r"(?<![\w.-])(user|node|admin)/([a-z0-9._-]{1,63})")
_ADDRESS = re.compile(r"(?<![\w.:])[0-9A-Fa-f:.]{2,60}(?![\w])")
_WORD = re.compile(r"(?<![A-Za-z0-9._-])[a-z0-9._-]{1,63}(?![A-Za-z0-9_-])")
_NAME = re.compile(r"[a-z0-9._-]{1,63}")
_WHO = frozenset({"who", "user", "peer", "access_point", "access_points", "servlet"})
"""Keys whose values are names, known or not."""
_OF_NAMES = frozenset({"servlets"})
"""Keys of mappings whose keys are names."""


class Redactor:
    """``key``: 32 fresh random bytes. ``reveal``: keep names and addresses; secrets go all the same."""

    def __init__(self, key: bytes, nodes: Iterable[str] = (), people: Iterable[str] = (), *, reveal: bool = False) -> None:
        self.pseudonyms: dict[str, str] = {}
        self._key = key
        self.reveals = reveal
        self._known = dict.fromkeys(people, "user") | dict.fromkeys(nodes, "node")

    def value(self, value: Any, key: str = "") -> Any:
        """Any JSON value, made fit to be shown; ``key`` is where it stood."""
        if _SECRET_KEY.search(key) and key not in _NOT_SECRET and value not in (None, True, False):
            return GONE
        if isinstance(value, str):
            return self._name(value) if key in _WHO and not self.reveals else self.text(value)
        if isinstance(value, Mapping):
            return {self._label(str(name), key): self.value(each, str(name)) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each, key) for each in value]
        return value

    def line(self, line: str) -> str:
        """A log line: JSON if it is such."""
        try:
            record = json.loads(line)
        except ValueError:
            return self.text(line)
        return json.dumps(self.value(record), ensure_ascii=False) if isinstance(record, dict) else self.text(line)

    def settings(self, text: str) -> str:
        """A TOML file, line by line: comments may hold what keys do not."""
        return self.text(_TOML_SECRET.sub(rf'\1"{GONE}"', text))

    def text(self, text: str) -> str:
        """Free text."""
        for secret in _SECRETS:
            text = secret.sub(GONE, text)
        if self.reveals:
            return text
        text = _IDENTITY.sub(lambda found: f"{found[1]}/{self._pseudonym(found[2], self._kind(found[2], found[1]))}", text)
        text = _ADDRESS.sub(lambda found: self._address(found[0]), text)
        return _WORD.sub(lambda found: self._word(found[0]), text)

    # Inside

    def _label(self, name: str, of: str) -> str:
        return self._name(name) if of in _OF_NAMES and not self.reveals else name

    def _name(self, value: str) -> str:
        if _NAME.fullmatch(value):
            return self._pseudonym(value, self._kind(value, "user"))
        return self.text(value)

    def _kind(self, name: str, otherwise: str) -> str:
        return self._known.get(name, "node" if otherwise == "node" else "user")

    def _word(self, word: str) -> str:
        """A known name, also as the first label of a host's name."""
        for name in (word.rstrip("."), word.partition(".")[0]):
            if name in self._known:
                return self._pseudonym(name, self._known[name]) + word[len(name) :]
        return word

    def _address(self, found: str) -> str:
        bare = found.rstrip(".:")
        for text, rest in ((bare, ""), (bare.rpartition(":")[0], ":" + bare.rpartition(":")[2])):
            try:
                address = ip_address(text)
            except ValueError:
                continue
            return (
                found if _harmless(address) else self._pseudonym(str(address), f"ip{address.version}") + rest + found[len(bare) :]
            )
        return found

    def _pseudonym(self, name: str, kind: str) -> str:
        mark = hmac.new(self._key, f"{kind}/{name}".encode(), hashlib.sha256).hexdigest()[:10]
        return self.pseudonyms.setdefault(name, f"{kind}-{mark}")


def _harmless(address: IPv4Address | IPv6Address) -> bool:
    """Addresses that every machine has."""
    return address.is_loopback or address.is_unspecified
