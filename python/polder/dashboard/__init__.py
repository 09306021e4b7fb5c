"""What people look at: one view-model for the terminal (``polder watch``) and the browser (``polder dashboard``).

``values``, ``rates``, ``words``, ``signs`` and the three views decide without I/O: samples in, a ``View`` out. ``source`` asks the
running parts, ``terminal`` and ``server`` show.
"""
