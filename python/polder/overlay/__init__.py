"""The roles: access point, beacon, servlet, site; their signed records, as machines without I/O. See ``docs/design/roles.md``."""

from polder.overlay.access import AccessPointRole, Ways
from polder.overlay.beacon import BeaconTable
from polder.overlay.calls import CallOut, FindOwner
from polder.overlay.directory import Directory
from polder.overlay.secrets import BEACONS, EpochSecrets, beacon_keys
from polder.overlay.servlet import ServletRole
from polder.overlay.site import Admitted, Moved, SiteConfig, SiteRole, Stage

__all__ = [
    "BEACONS",
    "AccessPointRole",
    "Admitted",
    "BeaconTable",
    "CallOut",
    "Directory",
    "EpochSecrets",
    "FindOwner",
    "Moved",
    "ServletRole",
    "SiteConfig",
    "SiteRole",
    "Stage",
    "Ways",
    "beacon_keys",
]
