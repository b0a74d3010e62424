"""Effects of time on a ledger: leases expire and periods end, each exactly once, without a daemon.

Time is the wall clock, kept from ever running backwards within one file. The first transaction after a moment settles
everything due at that moment before its own operations read it, in the order of time: a lease that ran out yesterday is
charged to yesterday's period, however late the next transaction comes.
"""

from typing import Any

import apsw

from budget_server.authority import periods, reservation, settlement
from budget_server.authority.reservation import Reservation

SWEEP_LIMIT = 1_000
"""Most expired reservations that one sweep settles, so that no operation waits for an unbounded one."""


class Timekeeper:
    """The time of the transactions of one connection."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self.now_ms = 0

    def begin(self, wall_ms: int) -> bool:
        """Set the time of this transaction and settle what was due before it; return whether anything was."""
        at_least_ms = max(wall_ms, self.now_ms)
        row = self._db.execute(
            "SELECT now_ms, EXISTS (SELECT 1 FROM reservations"
            " WHERE state = 'ACTIVE' AND expires_at_ms + grace_ms < max(now_ms, ?1)),"
            " EXISTS (SELECT 1 FROM budgets WHERE period_end_ms <= max(now_ms, ?1)) FROM clock",
            (at_least_ms,),
        ).fetchone()
        assert row is not None, "the clock has one row"
        last_ms, is_lease_due, is_period_over = row
        self.now_ms = max(at_least_ms, last_ms)
        if is_period_over:
            self._end_periods()
        if is_lease_due:
            self.sweep()
        return bool(is_lease_due or is_period_over)

    def remember(self) -> None:
        """Store this transaction's time, so that a clock set back revives no expired lease."""
        self._db.execute("UPDATE clock SET now_ms = ? WHERE now_ms < ?", (self.now_ms, self.now_ms))

    def sweep(self) -> bool:
        """Settle reservations whose lease and grace have run out; return whether it settled any."""
        return self._sweep(self.now_ms)

    def sweep_all(self) -> None:
        """Settle everything due, without a limit: a charge must not be capped because of expired reservations."""
        while self.sweep():
            pass

    def _sweep(self, until_ms: int) -> bool:
        due: list[Any] = self._db.execute(
            f"SELECT {reservation.COLUMNS} FROM reservations"  # noqa: S608 - constants
            " WHERE state = 'ACTIVE' AND expires_at_ms + grace_ms < ? ORDER BY expires_at_ms + grace_ms LIMIT ?",
            (until_ms, SWEEP_LIMIT),
        ).fetchall()
        for values in due:
            settlement.expire(self._db, Reservation(*values))
        return bool(due)

    def _end_periods(self) -> None:
        """Process every boundary that is due, each after the expiries before it: those belong to the ended period."""
        while (end_ms := periods.next_end_ms(self._db, self.now_ms)) is not None:
            while self._sweep(end_ms - 1):
                pass
            periods.end_periods(self._db, end_ms)
