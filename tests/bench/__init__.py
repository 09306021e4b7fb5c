"""The measuring programs: what they compute, and that they measure the real thing."""
