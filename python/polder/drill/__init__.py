"""``polder drill``: rehearsing failures in the running overlay, and measuring what users saw."""
