"""The model that answered, compared with the one that was asked for, under any name that a gateway gives it.

    as it may be named                                     the id that it is compared by
    claude-opus-4-5-20251101, claude-opus-4-5@20251101     claude-opus-4-5
    anthropic/claude-opus-4.5, anthropic/claude-opus-4-5   claude-opus-4-5
    us.anthropic.claude-opus-4-5-20251101-v1:0             claude-opus-4-5
    claude-opus-4-5-latest, claude-opus-4-5@default        claude-opus-4-5
    claude-opus-4-5:beta                                   claude-opus-4-5

Two names are the same model if they come to the same id and do not have two different dates. Nothing else is guessed:
a name that does not come to a listed id has no price.
"""

import json
import re
from collections.abc import Iterable

_LONGEST_NAME = 200

_PLATFORM = re.compile(r"^(?:.*/)?(?:[a-z0-9-]+\.)*?(?=claude)")
"""The path and the labels before the model's own name, of gateways, regions and providers."""
_TAG = re.compile(r"(?:-v\d+)?(?:[:\[].*)?$")
_LATEST = re.compile(r"[-@](?:latest|default)$")
_DATE = re.compile(r"[-@](\d{8})$")
_DOTTED = re.compile(r"(?<=\d)\.(?=\d)")


def names_same_model(one: str, other: str) -> bool:
    """Return whether two names stand for one model; a name with a date is a form of the name without it."""
    if one == other:
        return True
    (one_id, one_date), (other_id, other_date) = _parts(one), _parts(other)
    return one_id == other_id and (not one_date or not other_date or one_date == other_date)


def priced_as(name: str, listed: Iterable[str]) -> str | None:
    """Return the listed id that a name comes to, the same date before no date; ``None`` if none is listed."""
    ids = set(listed)
    model, date = _parts(name)
    return next((each for each in (name, f"{model}-{date}", model) if each in ids), None)


def shown_model(name: str) -> str:
    """Return a name that an endpoint gave, in quotes."""
    return json.dumps(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}...")


def _parts(name: str) -> tuple[str, str]:
    """Return the id that a name is compared by, and its date or ``""``."""
    model = name.strip().lower()[:_LONGEST_NAME]
    if "claude" in model:
        model = _LATEST.sub("", _TAG.sub("", _PLATFORM.sub("", model), count=1))
        model = _DOTTED.sub("-", model)
    dated = _DATE.search(model)
    return (model[: dated.start()], dated[1]) if dated else (model, "")
