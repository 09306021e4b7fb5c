"""The asyncio shell of a protected site's agent."""
