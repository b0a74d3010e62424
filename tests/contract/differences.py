"""Where the subjects of the contract differ from one another, and why: the one place that says so.

A test says what it needs with ``authority.require(...)`` and is skipped, with the reason below, on a subject that has
not got it. What a subject merely leaves out of its answers is asked for with ``authority.has(...)``.

``http`` is this project's own HTTP face, ``server`` a Cycles server (compared with cycles-server 0.1.25.59).
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple


class Difference(NamedTuple):
    """Something that some subjects have not got."""

    missing_from: Collection[str]
    reason: str


HTTP, SERVER = ("http",), ("server",)
BOTH = (*HTTP, *SERVER)

DIFFERENCES: Mapping[str, Difference] = {
    # -- what nobody can set up on a Cycles server through its admin API ----------------------------------------------
    "clock": Difference(SERVER, "it tells real time, which no test can move"),
    "sql": Difference(SERVER, "its tables are its own"),
    "caps": Difference(SERVER, "its admin API writes no caps that the runtime reads"),
    "over-limit flag": Difference(SERVER, "it is set by charges alone, and cleared by any funding"),
    "debt without a limit": Difference(SERVER, "debt needs a limit, and lowering that sets the over-limit flag"),
    "closed budget": Difference(SERVER, "a budget is closed by closing its tenant, which revokes the tenant's keys"),
    "closed tenant": Difference(SERVER, "closing a tenant revokes its keys: 401 before any TENANT_CLOSED"),
    "new tenant settings": Difference(SERVER, "it caches a tenant's settings for a minute"),
    # -- what is this project's own -----------------------------------------------------------------------------------
    "on_expiry": Difference(SERVER, "charging on expiry is an extension of ours; it keeps the metadata"),
    "deny_detail": Difference(SERVER, "it gives a 409 no details: they are announced for v0.1.26"),
    "field names": Difference(SERVER, "it names a wrong field as its own code does (ttlMs), or not at all"),
    # -- where a Cycles server is more lenient, or says it differently ------------------------------------------------
    "strict types": Difference(
        SERVER, "it reads '5', 5.7 and 'true' as numbers and truths, 5 as text, 0 as a unit, and null as nothing"
    ),
    "strict limits": Difference(SERVER, "a limit that is no int32 is a 500, and one in other digits is read"),
    "key bounds": Difference(SERVER, "an idempotency_key filter that no key can match gives an empty page"),
    "blank tenant": Difference(SERVER, "a blank tenant matches nothing there, where the text has 403 for any other"),
    "canonical payloads": Difference(SERVER, "it compares nested maps in the order in which they came"),
    "absence": Difference(SERVER, "it shows absent levels, tags and cursors as null in get and list"),
    "default order": Difference(SERVER, "without sort_by it lists in no order, and its cursors are bound to no filter"),
    "overflow": Difference(SERVER, "its charge past 64 bits fails in the middle: what had moved stays moved"),
    # -- what HTTP and the client library do to everyone behind them --------------------------------------------------
    "details for runcycles": Difference(
        BOTH, "runcycles 0.5.3 cannot read an error with a trace_id, and loses the details beside it"
    ),
}
