"""The protocol's arithmetic in plain Python, written from its text: what the ledger is compared with.

It shares no code with the ledger, and its shape is another one: what remains is computed and never stored, and expiry
looks at everything.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

DAY = 86_400_000


@dataclass(eq=False)
class Book:
    """A budget."""

    allocated: int
    limit: int
    reserved: int = 0
    spent: int = 0
    debt: int = 0
    over: bool = False
    frozen: bool = False
    daily: bool = False
    since: int = 0
    ended: dict[int, int] = field(default_factory=dict)
    """What was spent in each day that is over, by its end."""

    def midnight(self, now: int) -> None:
        """Start anew, with the debt repaid as far as the allocation goes."""
        if self.spent or self.debt:
            self.ended[now] = self.spent
        self.spent = min(self.debt, self.allocated)
        self.debt -= self.spent
        self.over = self.debt > self.limit
        self.since = now

    @property
    def remaining(self) -> int:
        """What is neither spent, held nor owed."""
        return self.allocated - self.spent - self.reserved - self.debt

    @property
    def ready(self) -> int:
        """What can be paid at once."""
        return max(self.remaining, 0)


@dataclass
class Hold:
    """A reservation."""

    books: list[Book]
    unit: str
    estimate: int
    policy: str
    expires: int
    grace: int
    charges_at_expiry: bool
    state: str = "ACTIVE"
    extensions: int = 0
    provisional: bool = False
    charged: int = 0

    @property
    def end(self) -> int:
        """The first moment at which it is over."""
        return self.expires + self.grace + 1


class Refused(Exception):  # noqa: N818 - an answer
    """A protocol error code."""


@dataclass
class Model:
    """Budgets by (scope, unit), reservations by id, and a clock that does not run backwards."""

    books: dict[tuple[str, str], Book]
    now: int
    holds: dict[str, Hold] = field(default_factory=dict)

    def tick(self, wall: int) -> None:
        """Let time pass, and leases and days with it, each at its moment."""
        now = max(self.now, wall)
        while (midnight := self.now - self.now % DAY + DAY) <= now:
            self.expire(midnight)
            for book in self.books.values():
                if book.daily:
                    book.midnight(midnight)
            self.now = midnight
        self.now = now
        self.expire(now + 1)

    def expire(self, before: int) -> None:
        """Settle what is over before a moment."""
        for hold in self.holds.values():
            if hold.state == "ACTIVE" and hold.end < before:
                for book in hold.books:
                    book.reserved -= hold.estimate
                    book.spent += hold.estimate if hold.charges_at_expiry else 0
                hold.state = "COMMITTED" if hold.charges_at_expiry else "EXPIRED"
                hold.provisional = hold.charges_at_expiry
                hold.charged = hold.estimate if hold.charges_at_expiry else 0

    def found(self, scopes: Iterable[str], unit: str) -> list[Book]:
        """Find the budgets of some scopes, root first."""
        return [self.books[scope, unit] for scope in scopes if (scope, unit) in self.books]

    def need(self, scopes: Iterable[str], unit: str) -> list[Book]:
        """Insist on at least one budget."""
        books = self.found(scopes, unit)
        if not books:
            elsewhere = any(scope == each for scope in scopes for each, _ in self.books)
            raise Refused("UNIT_MISMATCH" if elsewhere else "NOT_FOUND")
        return books

    def admit(self, scopes: list[str], unit: str, estimate: int) -> list[Book]:
        """Ask every budget, root first."""
        for book in self.found(scopes, unit):
            for refuses, code in (
                (book.frozen, "BUDGET_FROZEN"),
                (book.over, "OVERDRAFT_LIMIT_EXCEEDED"),
                (book.debt > 0 and not book.limit, "DEBT_OUTSTANDING"),
                (book.remaining < estimate, "BUDGET_EXCEEDED"),
            ):
                if refuses:
                    raise Refused(code)
        return self.need(scopes, unit)

    def reserve(self, rid: str, scopes: list[str], unit: str, hold: Hold) -> None:
        """Hold an estimate under an id."""
        hold.books = self.admit(scopes, unit, hold.estimate)
        for book in hold.books:
            book.reserved += hold.estimate
        self.holds[rid] = hold

    def pay(self, books: list[Book], due: int, policy: str) -> int:
        """Charge what is due, or as much of it as the policy lets through."""
        paid = due
        if policy == "REJECT":
            if any(book.remaining < due for book in books):
                raise Refused("BUDGET_EXCEEDED")
        elif policy == "ALLOW_IF_AVAILABLE":
            paid = min([due] + [book.ready for book in books])
        else:
            paid = min([due] + [book.ready for book in books if not book.limit])
            if any(
                book.debt + max(paid - book.ready, 0) > book.limit
                for book in books
                if book.remaining < paid and book.limit
            ):
                raise Refused("OVERDRAFT_LIMIT_EXCEEDED")
        if paid < due:
            for book in books:
                if book.remaining < due and (policy == "ALLOW_IF_AVAILABLE" or not book.limit):
                    book.over = True
        for book in books:
            funded = min(paid, book.ready)
            book.spent += funded
            book.debt += paid - funded
        return paid

    def commit(self, rid: str, unit: str, actual: int) -> int:
        """Settle with what was used and give the charge."""
        hold = self.holds[rid]
        if not hold.provisional:
            self._open(hold)
        if unit != hold.unit:
            raise Refused("UNIT_MISMATCH")
        if hold.policy == "REJECT" and actual > hold.estimate:
            raise Refused("BUDGET_EXCEEDED")
        used = min(actual, hold.estimate)
        here = [book for book in hold.books if not (hold.provisional and hold.end < book.since)]
        if hold.provisional:
            for book in here:
                book.spent -= hold.estimate
                book.reserved += hold.estimate
        try:
            extra = self.pay(hold.books, actual - hold.estimate, hold.policy) if actual > hold.estimate else 0
        except Refused:
            if hold.provisional:
                for book in here:
                    book.spent += hold.estimate
                    book.reserved -= hold.estimate
            raise
        for book in hold.books:
            if book in here:
                book.reserved -= hold.estimate
                book.spent += used
            elif used != hold.estimate:  # its charge lies in a day that is over
                book.ended[hold.end - hold.end % DAY + DAY] += used - hold.estimate
        hold.state, hold.provisional = "COMMITTED", False
        hold.charged = used + extra
        return hold.charged

    def release(self, rid: str) -> None:
        """Give all of it back."""
        hold = self.holds[rid]
        self._open(hold)
        for book in hold.books:
            book.reserved -= hold.estimate
        hold.state = "RELEASED"

    def extend(self, rid: str, ms: int) -> int:
        """Move the expiry on and give it."""
        hold = self.holds[rid]
        self._open(hold)
        if self.now > hold.expires:
            raise Refused("RESERVATION_EXPIRED")
        if hold.extensions == 10:
            raise Refused("MAX_EXTENSIONS_EXCEEDED")
        hold.extensions += 1
        hold.expires += ms
        return hold.expires

    def event(self, scopes: list[str], unit: str, amount: int, policy: str) -> int:
        """Debit without a reservation and give the charge."""
        for book in self.found(scopes, unit):
            if book.frozen:
                raise Refused("BUDGET_FROZEN")
            if policy == "REJECT" and book.remaining < amount:
                raise Refused("BUDGET_EXCEEDED")
        return self.pay(self.need(scopes, unit), amount, policy)

    @staticmethod
    def _open(hold: Hold) -> None:
        if hold.state == "EXPIRED":
            raise Refused("RESERVATION_EXPIRED")
        if hold.state != "ACTIVE":
            raise Refused("RESERVATION_FINALIZED")
