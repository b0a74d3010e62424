"""The IANA name of the user's time zone, in which days, weeks and months begin."""

from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from budget_tools.core.errors import ConfigurationError


def is_time_zone(name: str) -> bool:
    """Whether a name is one of the IANA time zones."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a path, a folder of the database, an empty name
        return False
    return True


def local_time_zone() -> str:
    """Return the name of this machine's time zone; a machine without a configured one uses UTC.

    Raises:
        ConfigurationError: the time zone is configured without a name that can be stored.
    """
    import tzlocal  # here: only a budget with a period needs it

    try:
        name = tzlocal.get_localzone_name()
    except ZoneInfoNotFoundError:
        name = None
    if name is None and not Path("/etc/localtime").exists():
        return "UTC"
    if name is None or not is_time_zone(name):
        raise ConfigurationError(
            "The time zone of this machine has no name: set BUDGET_TIME_ZONE to one such as Europe/Berlin."
        )
    return name
