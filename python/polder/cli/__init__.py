"""The polder command."""
