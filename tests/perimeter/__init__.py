"""The perimeter."""
