"""Deleting delegations that have not changed for a while.

A family is deleted together or not at all: all delegations below one use up its limit, running or not.
"""

import apsw

_DELETE_OLD_FAMILIES = """
    WITH RECURSIVE family (root, delegation_id) AS (
        SELECT delegation_id, delegation_id FROM delegations
        WHERE parent_id IS NULL OR parent_id NOT IN (SELECT delegation_id FROM delegations)
        UNION
        SELECT family.root, below.delegation_id
        FROM family JOIN delegations AS below ON below.parent_id = family.delegation_id
    ),
    kept (root) AS (
        SELECT family.root FROM family JOIN delegations USING (delegation_id)
        WHERE owner IS NOT NULL OR updated_at_ms >= ?
            OR EXISTS (SELECT 1 FROM spends
                WHERE spends.delegation_id = family.delegation_id AND charge IS NULL)
    )
    DELETE FROM delegations WHERE delegation_id IN
        (SELECT delegation_id FROM family WHERE root NOT IN (SELECT root FROM kept))
"""
"""A family is kept if one of it runs, has changed since, or has a spend whose cost is not known."""


def prune(db: apsw.Connection, before_ms: int) -> int:
    """Delete the families whose last change is before a moment, and return the number of delegations."""
    db.execute(_DELETE_OLD_FAMILIES, (before_ms,))
    return db.changes()
