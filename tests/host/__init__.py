"""The host helper."""
