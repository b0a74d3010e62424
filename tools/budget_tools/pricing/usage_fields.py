"""A usage object as it came, with a note of which of its fields were read.

A reader of usage must account for all of it: a count that is not read would be spend that is not charged. So every
field is read through ``Fields``, and the remaining fields are searched for anything that could cost money.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from budget_tools.core.errors import UsageError

MAX_COUNT = 2**63 - 1
"""Largest count of tokens or requests that is believed (int64, as the amounts that are computed from it)."""

_Path = tuple[str, ...]

_SPEAKS_OF_COST = re.compile(
    "token|cach|cost|price|usd|dollar|charge|credit|bill|spen[dt]|request|search|call|exec"
    "|input|output|prompt|completion|reason|think|thought|predict|audio|image|video|pixel|character|page"
    "|second|minute|hour|units|quer(y|ies)|fees?$",
    re.IGNORECASE,
)
"""Words in field names that providers and libraries use for anything with a price."""

# Sums of money for the whole call, in US dollars, by their names without case and underscores.
_STATED_COSTS = frozenset({"cost", "costusd", "totalcost", "totalcostusd", "responsecost"})

_MONEY = re.compile("cost|price|usd", re.IGNORECASE)

_LONGEST_SHOWN = 40
_MOST_DIGITS = 100


class Fields:
    """One usage object. Paths name a field within it, section by section: ``cache_creation.ephemeral_1h_input_tokens``.

    Args:
        raw: the object.
        at: where it is within the usage; the paths in sentences begin with it.
    """

    def __init__(self, raw: Mapping[str, object], at: str = "") -> None:
        self.raw = raw
        self.at = at
        self._read: set[_Path] = set()

    def has(self, path: str) -> bool:
        """Return whether a field exists, null or not; it does not count as read."""
        *sections, name = path.split(".")
        section: object = self.raw
        for each in sections:
            section = _unwrapped(section.get(each)) if isinstance(section, Mapping) else None
        return isinstance(section, Mapping) and name in section

    def value(self, path: str) -> object:
        """Read a field as it came; ``None`` if it or its section is missing or null.

        Raises:
            UsageError: a section on the way is not an object.
        """
        steps = tuple(path.split("."))
        self._read.add(steps)
        found: object = self.raw
        for number, step in enumerate(steps):
            if found is None:
                return None
            if not isinstance(found, Mapping):
                raise self.error(f"{'.'.join(steps[:number])} must be an object")
            found = found.get(step)
            if number + 1 < len(steps):
                found = _unwrapped(found)
        return found

    def count(self, path: str) -> int | None:
        """Read a count; ``None`` if it is missing or null.

        Raises:
            UsageError: it is not a whole number from 0 to int64.
        """
        value = self.value(path)
        return None if value is None else check_count(f"{self.at}{path}", value)

    def text(self, path: str) -> str:
        """Read a text; ``""`` if it is missing or null.

        Raises:
            UsageError: it is something else.
        """
        value = self.value(path)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(f"{path} must be text")
        return value

    def stated_costs(self) -> dict[str, Fraction]:
        """Read the sums of money stated beside the counts, in US dollars; those of 0 and the parts are left out.

        Raises:
            UsageError: a text in the place of a sum has digits, and is not a number; names the field.
        """
        stated: dict[str, Fraction] = {}
        for name, value in self.raw.items():
            if str(name).replace("_", "").casefold() not in _STATED_COSTS:
                continue
            path, sum_ = str(name), value
            if isinstance(value, Mapping) and "total" in value:
                path, sum_ = f"{name}.total", value["total"]
            if amount := _number(sum_):
                stated[path] = amount
                self.value(path)
            elif isinstance(sum_, str) and _decimal(sum_) is None and any(map(str.isdigit, sum_)):
                raise self.error(f'{path} "{shown(sum_)}" cannot be read as US dollars')
        if stated:
            names = [str(name) for name in self.raw]
            self._read |= {(name,) for name in names if _MONEY.search(name) and "token" not in name.casefold()}
        return stated

    def refuse_unread(self, shape: str) -> None:
        """Check that no field that was not read could cost money.

        Args:
            shape: whose usage it was taken for.

        Raises:
            UsageError: a field's name speaks of tokens, cache, cost or requests, and it is not 0; names it.
        """
        for path, value in self._unread():
            raise self.error(f"{'.'.join(path)} ({shown(value)}) has no known price in usage of {shape}")

    def error(self, what: str) -> UsageError:
        """Return the error of a field; ``what`` begins with its path."""
        return UsageError(f"The usage's {self.at}{what}.")

    def _unread(self) -> Iterator[tuple[_Path, object]]:
        sections = {path[:length] for path in self._read for length in range(1, len(path))}
        left: list[tuple[_Path, object]] = [((), self.raw)]
        while left:
            path, value = left.pop()
            if isinstance(value, Mapping):
                inner = [((*path, str(name)), each) for name, each in value.items()]
                left += [(at, each) for at, each in reversed(inner) if at not in self._read]
            elif isinstance(value, list | tuple):
                left += [(path, each) for each in reversed(value)]
            elif _is_some(value) and (path[:-1] in sections or _SPEAKS_OF_COST.search(".".join(path))):
                yield path, value


def check_count(path: str, value: object) -> int:
    """Return a count that is possible.

    Raises:
        UsageError: it is not a whole number from 0 to int64.
    """
    # bool is an int to Python, and a float may have lost digits: neither is a count.
    if type(value) is not int:
        raise UsageError(f"The usage's {path} must be a whole number.")
    if value < 0:
        raise UsageError(f"The usage's {path} must not be negative.")
    if value > MAX_COUNT:
        raise UsageError(f"The usage's {path} is too large to be true.")
    return value


def shown(value: object) -> str:
    """Return a value as a sentence quotes it."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_COUNT:
        return "a number beyond int64"
    text = str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _unwrapped(section: object) -> object:
    """Return a section without the list of one that some serializers put around it."""
    return section[0] if isinstance(section, list) and len(section) == 1 else section


def _is_some(value: object) -> bool:
    """Return whether a leaf counts something: a number other than 0, as a number or as text, or a yes."""
    if isinstance(value, bool | int | float | Decimal):
        return value != 0
    number = _decimal(value)
    return number is not None and not number.is_nan() and number != 0


def _number(value: object) -> Fraction:
    """Return the sum of money that a number, or a text that holds one, states; 0 for anything else."""
    number = _decimal(value)
    if number is None or not number.is_finite() or abs(number.adjusted()) > _LONGEST_SHOWN:
        return Fraction(0)
    return Fraction(number)


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    # Through its digits: 0.1 is a tenth, whatever a float holds.
    text = str(MAX_COUNT) if isinstance(value, int) and abs(value) > MAX_COUNT else str(value)
    try:
        return Decimal(text[:_MOST_DIGITS].strip().strip("$").replace(",", "").replace("_", ""))
    except InvalidOperation:
        return None
