"""Measurements: programs that run Polder beside its peers and write ``bench/results``."""
