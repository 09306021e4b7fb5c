"""The roles: access point, beacon, servlet; appointments, advertisements, path modes, as machines without I/O."""
