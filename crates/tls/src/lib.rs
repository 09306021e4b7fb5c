//! Mutual TLS 1.3 with the overlay's identities.
