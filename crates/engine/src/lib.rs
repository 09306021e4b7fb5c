//! The runtime: listeners, links, counters, the queue of events.
