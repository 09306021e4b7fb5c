"""An Internet on one machine: namespaces, links, attackers, experiments."""
