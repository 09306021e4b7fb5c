"""Privileged side effects: filters, tunnels, namespaces."""
