"""First answers, stored under their idempotency keys in the transaction that produced them, and replayed verbatim."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from budget_server.authority.refusals import Refusal, deny_detail
from budget_server.authority.requests import Request, json_text


@dataclass(frozen=True, slots=True)
class Answer:
    """A protocol answer: HTTP status and JSON body."""

    status: int
    body: dict[str, Any]
    is_replay: bool = False
    """Whether it was given before, to the first use of the key."""
    uncovered: Sequence[tuple[str, str, int]] = ()
    """Scope, unit and amount of uncovered spend; the protocol's Balance has no field for it."""


class Slot:
    """The place of one (tenant, endpoint, resource, key); ``resource`` is the reservation of an id route, else empty.

    Only successes are stored: after a refusal the same key is judged again.
    """

    def __init__(self, db: apsw.Connection, tenant: str, endpoint: str, resource: str, request: Request) -> None:
        self._db = db
        self._place = (tenant, endpoint, resource, request.idempotency_key)
        self._payload_sha256 = request.payload_sha256

    def first_answer(self) -> Answer | None:
        """Return the stored first answer, if any.

        Raises:
            Refusal: 409 IDEMPOTENCY_MISMATCH: the key came with another payload.
        """
        stored = self._db.execute(
            "SELECT payload_sha256, status, body FROM idempotency"
            " WHERE tenant = ? AND endpoint = ? AND resource = ? AND idempotency_key = ?",
            self._place,
        ).fetchone()
        if stored is None:
            return None
        payload_sha256, status, body = stored
        if payload_sha256 != self._payload_sha256:
            raise Refusal(
                409,
                "IDEMPOTENCY_MISMATCH",
                f"Idempotency key {self._place[-1]} was used before with another request.",
                deny_detail("IDEMPOTENCY_MISMATCH", "Use a new key for a new request."),
            )
        return Answer(status, json.loads(body), is_replay=True)

    def forget(self) -> None:
        """Delete the first answer, so that the key is judged again."""
        self._db.execute(
            "DELETE FROM idempotency WHERE tenant = ? AND endpoint = ? AND resource = ? AND idempotency_key = ?",
            self._place,
        )

    def keep(self, answer: Answer, now_ms: int) -> None:
        """Store the first answer."""
        self._db.execute(
            "INSERT INTO idempotency"
            " (tenant, endpoint, resource, idempotency_key, payload_sha256, status, body, created_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*self._place, self._payload_sha256, answer.status, json_text(answer.body), now_ms),
        )


def is_answered(db: apsw.Connection, tenant: str, endpoint: str, idempotency_key: str) -> bool:
    """Return whether a request that names no reservation was answered under this key."""
    found = db.execute(
        "SELECT 1 FROM idempotency WHERE tenant = ? AND endpoint = ? AND resource = '' AND idempotency_key = ?",
        (tenant, endpoint, idempotency_key),
    ).fetchone()
    return found is not None
