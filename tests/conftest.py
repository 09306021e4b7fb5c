"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A slow or busy machine makes an example late, not wrong.
settings.register_profile("polder", deadline=None)
settings.load_profile("polder")
