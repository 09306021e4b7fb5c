"""The daemon of RSVP: raw sockets, timers, routes, traffic control around a ``polder.rsvp.node.Node``."""
