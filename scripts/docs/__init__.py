"""The documentation site: pages of ``docs/site`` and of the repository, and references made from the code itself."""
