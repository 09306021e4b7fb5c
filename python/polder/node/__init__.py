"""The asyncio shell of an overlay node."""
