"""Configuration files parsed once into frozen models, and the directories of identities."""

from polder.settings.authority import AuthoritySettings
from polder.settings.base import ConfigError, Settings
from polder.settings.client import ClientSettings
from polder.settings.limits import Limits
from polder.settings.load import SECTIONS, json_schema, load
from polder.settings.node import NodeSettings
from polder.settings.site import SiteSettings
from polder.settings.state import StateDir, make_private, write_atomic

__all__ = [
    "SECTIONS",
    "AuthoritySettings",
    "ClientSettings",
    "ConfigError",
    "Limits",
    "NodeSettings",
    "Settings",
    "SiteSettings",
    "StateDir",
    "json_schema",
    "load",
    "make_private",
    "write_atomic",
]
