"""Chord, and what may replace it: membership and lookup as machines without I/O."""
