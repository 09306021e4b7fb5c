"""RSVP (RFC 2205, 2209, 2210, 2747, 2750, 2961) without I/O: codecs, and a node as a machine that takes ``now`` and ``rng``."""
