"""An Internet on one machine: namespaces, links, attackers, workloads, and the experiments that the claims rest on."""
