"""The only room that imports the native module: a typed facade."""

from polder.engine.facade import BUILD, CallFailed, Distribution, Engine, heap, meanings

__all__ = ["BUILD", "CallFailed", "Distribution", "Engine", "heap", "meanings"]
