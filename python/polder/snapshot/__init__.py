"""Folds all verdicts into one immutable snapshot for the data plane."""
