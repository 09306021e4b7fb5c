"""The reference C implementation of KeyNote, where somebody has built it: its functions of keynote(3), called through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

_LOCAL = 1
"""ASSERT_FLAG_LOCAL: trusted as it stands."""


class Reference:
    """A shared library with ``kn_init``, ``kn_add_assertion``, ``kn_add_action``, ``kn_add_authorizer``, ``kn_do_query``, ``kn_close``."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def query(
        self, policies: Sequence[bytes], credentials: Sequence[bytes], authorizers: Sequence[bytes], action: Mapping[bytes, bytes]
    ) -> bool:
        """Whether the assertions allow the action, with the values false and true; a session for each query, as an application has it."""
        c = self._library
        session = c.kn_init()
        try:
            for texts, flags in ((policies, _LOCAL), (credentials, 0)):
                for text in texts:
                    if c.kn_add_assertion(session, text, len(text), flags) < 0:
                        raise ValueError("the reference does not take an assertion")
            for who in authorizers:
                c.kn_add_authorizer(session, who)
            for name, value in action.items():
                c.kn_add_action(session, name, value, 0)
            values = (ctypes.c_char_p * 2)(b"false", b"true")
            return bool(c.kn_do_query(session, values, 2) == 1)
        finally:
            c.kn_close(session)
