"""What the shells of node, site and client share: clock, logs, tasks, signals, the life of an engine."""
