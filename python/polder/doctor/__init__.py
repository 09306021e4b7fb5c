"""``polder doctor``: what is wrong on this machine, and what would mend it."""
