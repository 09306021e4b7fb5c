"""The only room that imports the native module: a typed facade."""

from polder.engine.facade import CallFailed, Engine

__all__ = ["CallFailed", "Engine"]
