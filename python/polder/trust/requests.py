"""Certificate requests: made where the key lives, checked where the certificate is made.

A request is a proof that its sender holds a key, and nothing else: every name, group and ring id comes from the invitation.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from polder.model import Refused, SpiffeId, Verdict
from polder.trust.profiles import GROUPS, RING_ID, UNREADABLE

MAX_CSR = 8192
"""Bytes of a request; ours have some 400."""


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A PEM request that proves possession of ``key`` and asks for nothing."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.PEM)


def read_csr(pem: bytes) -> x509.CertificateSigningRequest:
    """Parse and check form, key type and self-signature, cheapest first; raises ``Refused``."""
    if len(pem) > MAX_CSR:
        raise Refused(Verdict.MALFORMED, f"the certificate request is longer than {MAX_CSR} bytes")
    try:
        csr = x509.load_pem_x509_csr(pem)
        key = csr.public_key()
    except UNREADABLE as error:
        raise Refused(Verdict.MALFORMED, "the certificate request is not PKCS #10 in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Refused(Verdict.MALFORMED, "the certificate request's key is not ECDSA P-256")
    try:
        good = isinstance(csr.signature_hash_algorithm, hashes.SHA256) and csr.is_signature_valid
    except UNREADABLE:
        good = False
    if not good:
        raise Refused(Verdict.BAD_SIGNATURE, "the certificate request is not signed by its own key with ECDSA and SHA-256")
    return csr


def check_csr(pem: bytes, granted: SpiffeId) -> ec.EllipticCurvePublicKey:
    """Return the key of a good request; raise ``Refused`` when it asks for a ring id, groups or a name not ``granted``."""
    csr = read_csr(pem)
    try:
        asked = {extension.oid: extension.value for extension in csr.extensions}
    except UNREADABLE as error:
        raise Refused(Verdict.MALFORMED, "the certificate request's extensions cannot be read") from error
    if RING_ID in asked:
        raise Refused(
            Verdict.WRONG_PLACE, "self-chosen ring id: the issuer assigns places on the ring; send a request without one"
        )
    if GROUPS in asked:
        raise Refused(Verdict.DENIED, "self-chosen groups: they come from the invitation; send a request without them")
    names = asked.pop(x509.SubjectAlternativeName.oid, None)
    if isinstance(names, x509.SubjectAlternativeName) and list(names) != [x509.UniformResourceIdentifier(str(granted))]:
        raise Refused(Verdict.WRONG_HOLDER, f"the certificate request asks for another name than the invitation's {granted}")
    if asked or list(csr.subject):
        raise Refused(Verdict.DENIED, "the certificate request asks for contents that only the issuer chooses; send an empty one")
    key = csr.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # read_csr has seen to it
    return key
