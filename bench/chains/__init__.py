"""Chains of N hops, every hop mutually authenticated: Polder beside the proxies that such a chain could be built from."""
