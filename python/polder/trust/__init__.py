"""The authority, enrolment and access rules, without I/O: keys, time and chance come as arguments."""

from polder.trust.authority import Issuer, domain_of, make_issuer, make_root
from polder.trust.chain import Vouched, verify_chain
from polder.trust.envelope import ChainVerifier, sign
from polder.trust.profiles import AUTHORITY, GROUPS, RING_ID, Identity, Profile, key_hash, read_identity
from polder.trust.requests import check_csr, make_csr
from polder.trust.revocation import Revoked, is_newer, is_retired, make_list

__all__ = [
    "AUTHORITY",
    "GROUPS",
    "RING_ID",
    "ChainVerifier",
    "Identity",
    "Issuer",
    "Profile",
    "Revoked",
    "Vouched",
    "check_csr",
    "domain_of",
    "is_newer",
    "is_retired",
    "key_hash",
    "make_csr",
    "make_issuer",
    "make_list",
    "make_root",
    "read_identity",
    "sign",
    "verify_chain",
]
