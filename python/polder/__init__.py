"""Polder: a federated overlay that keeps web sites reachable and fast while they are flooded or overloaded."""

__version__ = "0.1.0"
