"""Model ids in their many spellings, and the listed id that was probably meant.

Prices go by exact ids, so another spelling of an id has no price. Providers prefix and date their ids, Claude Code has
aliases, people write names. An id found here is suggested to a person and never used in place of what they wrote: an
alias moves on to models of other prices.
"""

import difflib
import re
from collections.abc import Collection

FAMILIES = ("sonnet", "opus", "haiku", "fable", "mythos")

_ALIASES = {"opusplan": "opus"}
"""Further names in Claude Code that do not begin with a family's name."""

# Longer than any model id: the time to search for the nearest id grows with the square of the length.
_LONGEST_ID = 100

# What follows an id at one provider or another: Vertex dates (@…), variants (:…) and Claude Code's context ([1m]).
_AFTER_ID = re.compile(r"[@:\[].*", re.DOTALL)
_DATE = re.compile(r"\d{8}", re.ASCII)
_SUFFIX = re.compile(r"-(?:latest|thinking|beta|fast|v\d+|\d{8})", re.ASCII)
_FAMILY_LAST = re.compile(rf"claude-(\d+(?:-\d+)?)-({'|'.join(FAMILIES)})(-.+)?", re.ASCII)
_VERSIONED = re.compile(rf"claude-({'|'.join(FAMILIES)})-(\d+)(?:-(\d{{1,2}}))?(?:-.+)?", re.ASCII)


def same_model(model: str, known: Collection[str]) -> str:
    """Return the known id of the same model that an id names in another form, or ``""``.

    Forms differ in case, separators, a provider's prefix or suffix, a date, ``-latest``, or the family's place.
    """
    if model in known:
        return model
    plain, dates = _plain(model), _DATE.findall(model[:_LONGEST_ID])
    forms = [each for each in known if _plain(each) == plain]
    return min(forms, key=lambda each: (not any(date in each for date in dates), len(each)), default="")


def nearest_id(model: str, *, live: Collection[str], known: Collection[str]) -> str:
    """Return the id that was probably meant, or ``""``.

    The same model in another form comes first, even if it has retired; after that only live ids are preferred: the
    newest of a family for its alias, the nearest version of a family, the nearest spelling.

    Args:
        model: an id that is not known.
        live: ids that new work can be planned with.
        known: every id that has a price.
    """
    if len(model) > _LONGEST_ID:
        return ""
    found = same_model(model, known) or _of_family(_plain(model), live)
    if found:
        return found
    if _plain(model) == "claude":
        return ""
    near = difflib.get_close_matches(_plain(model), live, n=1) or difflib.get_close_matches(_plain(model), known, n=1)
    return near[0] if near else ""


def is_alias(model: str) -> bool:
    """Return whether a name stands for the newest model of a family, as in Claude Code."""
    return _family_of_alias(_plain(model)) != ""


def _plain(model: str) -> str:
    text = model[:_LONGEST_ID].strip().lower()
    text = text[max(text.find("claude"), 0) :]
    text = re.sub(r"[ ._/]+", "-", _AFTER_ID.sub("", text))
    if text.startswith(FAMILIES):
        text = f"claude-{text}"
    while True:
        cut = re.sub(rf"{_SUFFIX.pattern}$", "", text)
        if cut == text:
            break
        text = cut
    if turned := _FAMILY_LAST.fullmatch(text):
        text = f"claude-{turned[2]}-{turned[1]}{turned[3] or ''}"
    return text


def _of_family(plain: str, live: Collection[str]) -> str:
    """Return the newest model for a family's alias, else the family's newest that is not newer than what was asked."""
    versioned = _VERSIONED.fullmatch(plain)
    family = versioned[1] if versioned else _family_of_alias(plain)
    versions = {_version(each): each for each in sorted(live, reverse=True) if each.startswith(f"claude-{family}-")}
    if not family or not versions:
        return ""
    asked = _version(plain) if versioned else max(versions)
    return versions[max((each for each in versions if each <= asked), default=min(versions))]


def _family_of_alias(plain: str) -> str:
    name = plain.removeprefix("claude-")
    name = _ALIASES.get(name, name)
    return name if name in FAMILIES else ""


def _version(plain: str) -> tuple[int, int]:
    found = _VERSIONED.fullmatch(plain)
    return (int(found[2]), int(found[3] or 0)) if found else (0, 0)
