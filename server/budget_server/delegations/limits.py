"""Limits of a tree of delegations: the amount that each may still be charged, and the number that may run.

A delegation's limit is used up by all that it and those below it were charged, have in flight and have reserved. A
spend with a known charge is no longer in flight: it is counted in the delegation's ``spent_microcents``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import apsw

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.money import USD_MICROCENTS

MAX_RUNNING = 64
MAX_CHILDREN = 8
MAX_DEPTH = 3

_LEFT = f"""
    WITH RECURSIVE
        line (delegation_id, parent_id, budget_microcents) AS (         -- itself, and those it was made under
            SELECT delegation_id, parent_id, budget_microcents FROM delegations WHERE delegation_id = ?
            UNION
            SELECT above.delegation_id, above.parent_id, above.budget_microcents
            FROM line JOIN delegations AS above ON above.delegation_id = line.parent_id
        ),
        tree (root, delegation_id) AS (                                 -- all below each of those that has a limit
            SELECT delegation_id, delegation_id FROM line WHERE budget_microcents IS NOT NULL
            UNION
            SELECT tree.root, below.delegation_id
            FROM tree JOIN delegations AS below ON below.parent_id = tree.delegation_id
        ),
        used (root, microcents) AS (
            SELECT tree.root, sum(spent_microcents + coalesce(
                (SELECT sum(bound) FROM spends
                 WHERE spends.delegation_id = tree.delegation_id AND unit = '{USD_MICROCENTS}' AND charge IS NULL), 0))
            FROM tree JOIN delegations USING (delegation_id) GROUP BY tree.root
        )
    SELECT min(line.budget_microcents - used.microcents) FROM line JOIN used ON used.root = line.delegation_id
"""  # noqa: S608 - a constant

_SPENT_BELOW = """
    WITH RECURSIVE tree (delegation_id) AS (
        SELECT delegation_id FROM delegations WHERE parent_id = ?
        UNION
        SELECT below.delegation_id FROM tree JOIN delegations AS below ON below.parent_id = tree.delegation_id
    )
    SELECT coalesce(sum(spent_microcents), 0) FROM tree JOIN delegations USING (delegation_id)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits on the number of delegations."""

    max_running: int = MAX_RUNNING
    """Most running ones in all processes of the data directory."""
    max_children: int = MAX_CHILDREN
    """Most running ones that one delegation's sub-agent started."""
    max_depth: int = MAX_DEPTH
    """Deepest nesting; a delegation started by a host has depth 1."""

    def check_depth(self, depth: int) -> None:
        """Refuse a delegation that is nested too deeply.

        Raises:
            InvalidArgumentError: ``NESTED_TOO_DEEP``.
        """
        if depth > self.max_depth:
            raise InvalidArgumentError(
                f"Delegations may be nested {self.max_depth} deep and this one would be deeper: "
                "do the task without delegating it.",
                code="NESTED_TOO_DEEP",
            )

    def check_running(self, db: apsw.Connection, parent_id: str, is_alive: Callable[[str], bool]) -> None:
        """Refuse another delegation if enough are running; those of dead owners do not count as running.

        Raises:
            InvalidArgumentError: ``TOO_MANY_DELEGATIONS``.
        """
        running = children = 0
        rows = db.execute(
            "SELECT owner, count(*), sum(parent_id IS ?) FROM delegations WHERE owner IS NOT NULL GROUP BY owner",
            (parent_id or None,),
        )
        for owner, of_owner, of_parent in rows.fetchall():
            if is_alive(str(owner)):
                running += int(str(of_owner))
                children += int(str(of_parent))
        if running >= self.max_running:
            raise InvalidArgumentError(
                f"{running} delegations are running already: wait for one to end.", code="TOO_MANY_DELEGATIONS"
            )
        if parent_id and children >= self.max_children:
            raise InvalidArgumentError(
                f"{children} delegations of the delegation {parent_id} are running already: wait for one to end.",
                code="TOO_MANY_DELEGATIONS",
            )


def left_microcents(db: apsw.Connection, delegation_id: str) -> int | None:
    """Return the amount that the tightest limit above a delegation, its own included, still allows.

    Returns:
        Microcents, negative if more than a limit is used up; ``None`` if no limit applies.
    """
    left = db.execute(_LEFT, (delegation_id,)).get
    assert left is None or isinstance(left, int)
    return left


def spent_below_microcents(db: apsw.Connection, delegation_id: str) -> int:
    """Return the charges of the delegations that a sub-agent started, and of those below them."""
    spent = db.execute(_SPENT_BELOW, (delegation_id,)).get
    assert isinstance(spent, int)
    return spent
