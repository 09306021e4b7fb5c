"""Configuration files parsed once into frozen models."""
