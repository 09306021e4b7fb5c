"""``polder incident``: one file that tells what happened, for after an attack, and that can be shown to others."""
