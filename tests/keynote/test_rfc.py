"""The examples of RFC 2704 §6 come out as it says.

Two misprints of the RFC are mended: H has ``app_domain="SPEND"`` with one ``=``, which its own grammar does not know, and queries name
``dsa:12340987`` where assertions have ``DSA:``, although opaque identifiers are compared with case (§5.2). Keys and signatures of the
examples are not real, so that the assertions are given as trusted.
"""

from __future__ import annotations

import pytest

from polder.keynote import Checker, KeyNoteError, parse

A = 'Authorizer: "POLICY"\nLicensees: "RSA:abc123"\n'
B = r"""KeyNote-Version: 2
Local-Constants: Alice="DSA:4401ff92"  # Alice's key
                 Bob="RSA:d1234f"      # Bob's key
Authorizer: "RSA:abc123"
Licensees: Alice || Bob
Conditions: (app_domain == "RFC822-EMAIL") &&
            (address ~=   # only applies to one domain
              "^.*@keynote\\.research\\.att\\.com$");
Signature: "RSA-SHA1:213354f9"
"""
C = """KeyNote-Version: 2
Authorizer: "DSA:4401ff92"  # the Alice CA
Licensees: "DSA:12340987"   # mab's key
Conditions: ((app_domain == "RFC822-EMAIL") &&
             (name == "M. Blaze" || name == "") &&
             (address == "mab@keynote.research.att.com"));
Signature: "DSA-SHA1:ab23487"
"""
D = """KeyNote-Version: "2"
Authorizer: "DSA:4401ff92"   # the Alice CA
Licensees: "DSA:abc991" ||   # jf's DSA key
           "RSA:cde773" ||   # jf's RSA key
           "BFIK:fd091a"     # jf's BFIK key
Conditions: ((app_domain == "RFC822-EMAIL") &&
             (name == "J. Feigenbaum" || name == "") &&
             (address == "jf@keynote.research.att.com"));
Signature: "DSA-SHA1:8912aa"
"""
E = """Authorizer: "POLICY"
Licensees: "RSA:dab212"  # the CFO's key
Conditions: (app_domain=="SPEND") && (@dollars < 10000);
"""
F = """KeyNote-Version: 2
Comment: This credential specifies a spending policy
Authorizer: "RSA:dab212"        # the CFO
Licensees: "DSA:feed1234" &&    # The vice president
               ("RSA:abc123" || # middle manager #1
                "DSA:bcd987" || # middle manager #2
                "DSA:cde333" || # middle manager #3
                "DSA:def975" || # middle manager #4
                "DSA:978add")   # middle manager #5
Conditions: (app_domain=="SPEND")  # note nested clauses
              -> { (@(dollars) < 2500)
                     -> _MAX_TRUST;
                   (@(dollars) < 7500)
                     -> "ApproveAndLog";
                 };
Signature: "RSA-SHA1:9867a1"
"""
G = """KeyNote-Version: 2
Authorizer: "POLICY"
Licensees: 2-of("DSA:feed1234", # The VP
                "RSA:abc123",   # Middle management clones
                "DSA:bcd987",
                "DSA:cde333",
                "DSA:def975",
                "DSA:978add")
Conditions: (app_domain=="SPEND") &&
            (@(dollars) < 1000);
"""
H = """KeyNote-Version: 2
Comment: This one credential is equivalent to six separate
         credentials, one for each VP and middle manager.
         Individually, they can spend up to $500, but if
         it's $100 or more, we log it.
Authorizer: "RSA:dab212"      # From the CFO
Licensees: "DSA:feed1234" ||  # The VP
           "RSA:abc123" ||    # The middle management clones
           "DSA:bcd987" ||
           "DSA:cde333" ||
           "DSA:def975" ||
           "DSA:978add"
Conditions: (app_domain=="SPEND")  # nested clauses
              -> { (@(dollars) < 100) -> _MAX_TRUST;
                   (@(dollars) < 500) -> "ApproveAndLog";
                 };
Signature: "RSA-SHA1:186123"
"""
MAB, JF = "mab@keynote.research.att.com", "jf@keynote.research.att.com"


@pytest.mark.parametrize(
    ("who", "attributes", "value"),
    [
        ("DSA:12340987", {"address": MAB}, "true"),
        ("DSA:12340987", {"address": MAB, "name": "M. Blaze"}, "true"),
        ("RSA:cde773", {"address": JF}, "true"),
        ("DSA:12340987", {"address": "angelos@dsl.cis.upenn.edu"}, "false"),
        ("DSA:abc991", {"address": MAB, "name": "M. Blaze"}, "false"),
        ("DSA:12340987", {"address": MAB, "name": "J. Feigenbaum"}, "false"),
    ],
)
def test_email(who: str, attributes: dict[str, str], value: str) -> None:
    """Examples A to D."""
    given = {"app_domain": "RFC822-EMAIL", **attributes}
    assert Checker().query([A, B, C, D], [], [who], given).value == value


@pytest.mark.parametrize(
    ("who", "dollars", "value"),
    [
        ("DSA:978add", "45", "Approve"),
        ("RSA:abc123,DSA:cde333", "550", "Approve"),
        ("DSA:feed1234,DSA:cde333", "5500", "ApproveAndLog"),
        ("DSA:cde333", "150", "ApproveAndLog"),
        ("DSA:def975", "550", "Reject"),
        ("DSA:cde333,DSA:978add", "5500", "Reject"),
    ],
)
def test_workflow(who: str, dollars: str, value: str) -> None:
    """Examples E to H."""
    given = {"app_domain": "SPEND", "dollars": dollars, "unmentioned_attribute": "whatever"}
    answer = Checker().query([E, F, G, H], [], who.split(","), given, ("Reject", "ApproveAndLog", "Approve"))
    assert answer.value == value


def test_the_misprint_of_example_h() -> None:
    """As printed it is no KeyNote."""
    with pytest.raises(KeyNoteError, match="'='"):
        parse(H.replace('app_domain=="SPEND"', 'app_domain="SPEND"'))


def test_a_signed_example_is_no_policy_for_strangers() -> None:
    """Given as a credential, an assertion with a made-up signature counts nothing."""
    answer = Checker().query([A], [B, C], ["DSA:12340987"], {"app_domain": "RFC822-EMAIL", "address": MAB})
    assert answer.value == "false"
