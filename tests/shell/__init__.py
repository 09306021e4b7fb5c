"""Tests of what shells share."""
