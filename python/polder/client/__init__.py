"""The asyncio shell of the user's forwarder."""
