"""Words in a usage report that change its price, and the many that mean the standard price."""

from collections.abc import Mapping

from budget_tools.pricing.usage_fields import Fields, shown

_SERVICE_TIERS = {
    **dict.fromkeys(("", "auto", "default", "none", "normal", "on_demand", "standard", "standard_only"), "standard"),
    "batch": "batch",
    "priority": "priority",
}
_SPEEDS = {**dict.fromkeys(("", "default", "none", "normal", "standard"), "standard"), "fast": "fast"}

# A geography that is not listed is kept as it came: the price book decides whether it has a price.
_GEOGRAPHIES = {**dict.fromkeys(("", "global", "n/a", "none", "not_available", "null"), ""), "us": "us"}


def service_tier(fields: Fields) -> str:
    """Read the tier: ``standard``, ``batch`` or ``priority``.

    Raises:
        UsageError: it is a word that has no known price.
    """
    return _word(fields, "service_tier", _SERVICE_TIERS)


def speed(fields: Fields) -> str:
    """Read the speed: ``standard`` or ``fast``.

    Raises:
        UsageError: it is a word that has no known price.
    """
    return _word(fields, "speed", _SPEEDS)


def inference_geo(fields: Fields) -> str:
    """Read the geography: ``""`` for a word that means the list price, otherwise what was reported."""
    reported = fields.text("inference_geo")
    return _GEOGRAPHIES.get(_plain(reported), reported)


def _word(fields: Fields, name: str, meanings: Mapping[str, str]) -> str:
    word = fields.text(name)
    try:
        return meanings[_plain(word)]
    except KeyError:
        priced = ", ".join(dict.fromkeys(meanings.values()))
        raise fields.error(f'{name} "{shown(word)}" is none that has a known price ({priced})') from None


def _plain(word: str) -> str:
    return word.strip().casefold().replace("-", "_").replace(" ", "_")
