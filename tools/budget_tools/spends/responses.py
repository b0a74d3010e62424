"""Responses of the budget authority: a body, a denial, or an error with one clear sentence.

Bodies are read field by field rather than through the client library's models, which refuse fields that current
authorities send.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from budget_tools.core.errors import AuthorityError, AuthorityUnavailableError
from budget_tools.core.money import Money
from budget_tools.core.subjects import Subject

if TYPE_CHECKING:
    from runcycles import AsyncCyclesClient, CyclesProtocolError, CyclesResponse

DENIALS = frozenset(
    {
        "BUDGET_EXCEEDED",
        "BUDGET_FROZEN",
        "BUDGET_CLOSED",
        "DEBT_OUTSTANDING",
        "OVERDRAFT_LIMIT_EXCEEDED",
        "TENANT_CLOSED",
        "ACTION_QUOTA_EXCEEDED",
    }
)
"""Protocol error codes that deny for lack of budget; every other code means that something is wrong."""

MAX_PAGE = "200"
"""Maximum number of balances of one answer (Cycles v0, parameter Limit), as the client takes it."""

_NO_BUDGET = "BUDGET_NOT_FOUND"

NO_BUDGET_HINT = "No budget is set for this subject: a person sets one (BUDGET_USD for this server's own ledger)."

_PROTOCOL_CODE = re.compile(r"[A-Z][A-Z0-9_]+")

_HINTS = {
    _NO_BUDGET: NO_BUDGET_HINT,
    "BUDGET_EXCEEDED": "Ask for less, settle or release what you reserved yourself, or have a person raise the budget.",
    "BUDGET_FROZEN": "A person froze this budget; only they can unfreeze it.",
    "BUDGET_CLOSED": "This budget is closed; use another subject.",
    "DEBT_OUTSTANDING": "Earlier spending left a debt; a person has to fund the budget first.",
    "OVERDRAFT_LIMIT_EXCEEDED": "This budget is over its limit; a person has to fund it first.",
    "TENANT_CLOSED": "This tenant is closed; nothing can be spent.",
    "ACTION_QUOTA_EXCEEDED": "So many calls of this kind are not allowed; a person has to raise the quota.",
}

_REMEDIES = {
    "NOT_FOUND": "Check the id: it is the reservation_id that reserve_budget gave.",
    "RESERVATION_FINALIZED": "A reservation is settled once: there is nothing left to do for this one.",
    "RESERVATION_EXPIRED": "Its money went back: if it was spent, book it with record_usage.",
    "IDEMPOTENCY_MISMATCH": "Repeat a key only with the same arguments; use a new key for a new call.",
    "UNIT_MISMATCH": "Give the amount in the budget's own unit.",
    "LIMIT_EXCEEDED": "Wait a moment, then repeat it with the same idempotency_key.",
    "MAX_EXTENSIONS_EXCEEDED": "Settle it before it expires.",
    "FORBIDDEN": "It settles by itself what it holds.",
}

UNCOVERED_HEADER = "x-budget-uncovered"
"""Header in which the embedded ledger reports what budgets could not cover: JSON, a list of scope, unit and amount.

It is not in the body: the client library refuses balances with fields that the protocol does not have.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Denial:
    """A refusal for lack of budget; nothing is held."""

    reason_code: str
    hint: str
    retry_after_ms: int | None = None
    blocked_by_scope: str = ""
    """Scope of the budget that refused, if the authority names it."""


def denial_of(response: "CyclesResponse") -> Denial | None:
    """Return the denial that a reserve was answered with; ``None`` for any other answer."""
    body = _object_in(response) or {}
    if response.is_success:
        is_denied, code = body.get("decision") == "DENY", str(body.get("reason_code") or "DENIED")
    else:
        code = str(body.get("error"))
        is_denied = code in DENIALS or _finds_no_budget(response.status, code)
    if not is_denied:
        return None
    return _denial(response.status, code, body.get("retry_after_ms"), body.get("details"))


def denial_from(error: "CyclesProtocolError") -> Denial | None:
    """Return the denial in an error of entering a stream reservation; ``None`` for any other error."""
    # The library calls an unknown code UNKNOWN; the detail beside it has the code itself.
    detail = _deny_detail(error.details)
    code = str(detail.get("reason_code") or error.error_code or error.reason_code or "DENIED")
    # Under status 200, only a denial has these words: the library also raises for an answer that it cannot read.
    says_so = error.status == 200 and str(error).startswith("Reservation denied")
    is_denied = says_so or code in DENIALS or _finds_no_budget(error.status, error.error_code)
    return _denial(error.status, code, error.retry_after_ms, error.details) if is_denied else None


def _deny_detail(details: object) -> Mapping[str, Any]:
    detail = details.get("deny_detail") if isinstance(details, Mapping) else None
    return detail if isinstance(detail, Mapping) else {}


def _denial(status: int, code: str, retry_after_ms: object, details: object) -> Denial:
    """Build a denial; the authority's own words (``deny_detail``) are more precise than our hints."""
    # A 404 of a reserve means that no scope of the subject has a budget.
    reason = _NO_BUDGET if status == 404 else code
    detail = _deny_detail(details)
    hint = detail.get("suggested_fix") or _HINTS.get(reason, "Ask for less, or have a person look at the budget.")
    return Denial(
        reason_code=reason,
        hint=str(hint),
        retry_after_ms=next(
            (each for each in (retry_after_ms, detail.get("retry_after_ms")) if type(each) is int), None
        ),
        blocked_by_scope=str(detail.get("blocked_by_scope") or ""),
    )


def _finds_no_budget(status: int, code: str | None) -> bool:
    """Return whether the authority found no budget for a reserve, rather than a proxy before it no page for a path."""
    return status == 404 and code is not None and _PROTOCOL_CODE.fullmatch(code) is not None


def error_from(error: "CyclesProtocolError", doing: str) -> AuthorityError:
    """Convert the error of a stream reservation if it is not a denial."""
    if error.status < 0 or error.status >= 500 or 200 <= error.status < 300:
        return AuthorityUnavailableError(
            f"The budget authority gave no definite answer to {doing}: {error}", status=error.status
        )
    if not _PROTOCOL_CODE.fullmatch(error.error_code or ""):
        return _foreign(error.status, doing)
    return AuthorityError(
        f"Could not {doing}: {error}", code=error.error_code or "AUTHORITY_ERROR", status=error.status
    )


def body_of(response: "CyclesResponse", doing: str, *, key: str = "", is_kept: bool = False) -> dict[str, Any]:
    """Return the body of a success.

    Args:
        response: the authority's answer.
        doing: what was asked, to begin the sentence of an error: ``"commit reservation r-1"``.
        key: the idempotency key that a repetition of the call needs, if any.
        is_kept: whether this server repeats the call by itself if the answer is not definite.

    Raises:
        AuthorityUnavailableError: the answer is not definite; the same idempotency key may be sent again.
        AuthorityError: a definite refusal; nothing was written.
    """
    found = _object_in(response)
    if response.is_success and found is not None:
        return found
    body = found or {}
    is_refused = response.status in (401, 403)
    if response.is_success or response.is_transport_error or response.status >= 500 or (is_kept and not is_refused):
        reason = body.get("message") or ("it cannot be read" if response.is_success else "it cannot be reached")
        kept = "; it is written down, and repeated until there is one" if is_kept else ""
        again = f". Repeat the call with idempotency_key {key}." if key else ""
        raise AuthorityUnavailableError(
            f"The budget authority gave no definite answer to {doing}: {reason}{kept}{again}", status=response.status
        )
    code = str(body.get("error") or "")
    if is_refused:
        kept = " It is written down, and repeated at the next start." if is_kept else ""
        raise AuthorityError(
            f"The budget authority refused the credentials to {doing} ({code or f'HTTP {response.status}'}): "
            f"check CYCLES_API_KEY and CYCLES_TENANT.{kept}",
            code=code or f"HTTP_{response.status}",
            status=response.status,
        )
    if not _PROTOCOL_CODE.fullmatch(code):
        raise _foreign(response.status, doing)
    message = str(body.get("message") or response.error_message or "no reason given").rstrip(".")
    remedy = _REMEDIES.get(code, "Correct the call and try again.")
    raise AuthorityError(f"Could not {doing}: {message}. {remedy}", code=code, status=response.status)


def _foreign(status: int, doing: str) -> AuthorityError:
    return AuthorityError(
        f"Could not {doing}: HTTP {status} came from something that is not a budget authority: check CYCLES_BASE_URL, "
        "and the proxy before it if there is one.",
        code=f"HTTP_{status}",
        status=status,
    )


def _object_in(response: "CyclesResponse") -> dict[str, Any] | None:
    """Return the JSON object of an answer; ``None`` if the body is anything else, which is not of the protocol."""
    body: object = response.body
    return body if isinstance(body, dict) else None


def balances_in(response: "CyclesResponse") -> list[Mapping[str, Any]]:
    """Return the balances of an answer, each with what it could not cover (``uncovered``) if the authority says so."""
    rows: list[Mapping[str, Any]] = (_object_in(response) or {}).get("balances") or []
    said = response.headers.get(UNCOVERED_HEADER)
    if not said:
        return rows
    uncovered = {(scope, unit): {"unit": unit, "amount": amount} for scope, unit, amount in json.loads(said)}
    places = [(row["scope_path"], row["remaining"]["unit"]) for row in rows]
    return [
        {**row, "uncovered": uncovered[place]} if place in uncovered else row
        for row, place in zip(rows, places, strict=True)
    ]


def tightest(balances: Iterable[Mapping[str, Any]], unit: str) -> Money | None:
    """Return the least that remains over the budgets of one subject: all that it can still reserve."""
    found = _tightest_of(balances, unit)
    return None if found is None else found.remaining


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """State of the tightest budget of a subject."""

    remaining: Money
    reserved: int
    """Amount held of it, by all subjects."""


async def remaining(client: "AsyncCyclesClient", subject: Subject, unit: str) -> Money | None:
    """Return what a subject can still reserve in a unit; ``None`` if none of its scopes has a budget.

    Raises:
        AuthorityError: the balances cannot be read.
    """
    found = await standing(client, subject, unit)
    return None if found is None else found.remaining


async def standing(client: "AsyncCyclesClient", subject: Subject, unit: str) -> Standing | None:
    """Return the state of the tightest of a subject's budgets; ``None`` if none of its scopes has one.

    Raises:
        AuthorityError: the balances cannot be read.
    """
    return _tightest_of(subject.own_balances(await all_balances(client, subject.tenant), unit), unit)


async def all_balances(client: "AsyncCyclesClient", tenant: str) -> list[Mapping[str, Any]]:
    """Return every balance of a tenant, as the protocol shows them.

    Raises:
        AuthorityError: the balances cannot be read.
    """
    found: list[Mapping[str, Any]] = []
    page = {"limit": MAX_PAGE}
    while True:
        response = await client.get_balances(tenant=tenant, **page)
        body = body_of(response, "read balances")
        rows = balances_in(response)
        if not all(_is_balance(row) for row in rows):
            raise AuthorityUnavailableError(
                "The budget authority gave no definite answer to read balances: it cannot be read."
            )
        found += rows
        # An authority that claims more pages without giving a cursor would be asked the same again and again.
        if not body.get("has_more") or not body.get("next_cursor") or body["next_cursor"] == page.get("cursor"):
            return found
        page["cursor"] = body["next_cursor"]


def _is_balance(row: object) -> bool:
    left = row.get("remaining") if isinstance(row, Mapping) else None
    return isinstance(left, Mapping) and type(left.get("amount")) is int and isinstance(left.get("unit"), str)


def _tightest_of(balances: Iterable[Mapping[str, Any]], unit: str) -> Standing | None:
    rows = [row for row in balances if _is_balance(row) and row["remaining"]["unit"] == unit]
    if not rows:
        return None
    row = min(rows, key=lambda each: int(each["remaining"]["amount"]))
    held = row.get("reserved") or {}
    return Standing(remaining=Money.of(int(row["remaining"]["amount"]), unit), reserved=int(held.get("amount", 0)))
