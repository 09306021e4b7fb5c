"""Tables of what must survive a restart."""
