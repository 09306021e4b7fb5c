"""KeyNote: a complete RFC 2704 with the keys of RFC 2792 and of today. Imports nothing of Polder.

>>> from polder.keynote import Checker
>>> Checker().query(['Authorizer: "POLICY"\\nLicensees: "alice"\\nConditions: read == "yes";'], [], ["alice"], {"read": "yes"}).value
'true'
"""

from polder.keynote.assertion import Assertion, parse
from polder.keynote.checker import Answer, Checker
from polder.keynote.errors import KeyNoteError, Why
from polder.keynote.keys import canonical, principal, show
from polder.keynote.limits import Limits
from polder.keynote.text import quote, split_assertions

__all__ = [
    "Answer",
    "Assertion",
    "Checker",
    "KeyNoteError",
    "Limits",
    "Why",
    "canonical",
    "parse",
    "principal",
    "quote",
    "show",
    "split_assertions",
]
