"""The fault table: what a turn's reservation becomes, by what goes wrong and when.

``PROMISED`` is the table as it is promised, a sentence a cell; ``CASES`` are ways to bring each cell about. A cell
without a sentence cannot occur.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from budget_server.demo.scripted_claude import Answer, Failure, Fault, ToolCall, Turn
from faults.nursery import Point
from faults.proxy import Operation
from faults.stage import Kind

Row = Literal[
    "Claude refuses (429, 529, other 4xx)",
    "Claude fails (5xx, 408, silence, reset)",
    "an answer without stop reason or usage",
    "the host cancels",
    "the process is killed",
    "the authority is away",
    "the authority says 410, expired",
]
Moment = Literal[
    "before the reserve",
    "reserved, not sent",
    "sent, no answer",
    "mid-stream",
    "answered, not committed",
    "commit's answer lost",
]

PROMISED: dict[Row, dict[Moment, str]] = {
    "Claude refuses (429, 529, other 4xx)": {
        "sent, no answer": "retry, then release",
    },
    "Claude fails (5xx, 408, silence, reset)": {
        "reserved, not sent": "release",
        "sent, no answer": "charge the bound",
        "mid-stream": "charge the bound",
        "answered, not committed": "commit usage",
        "commit's answer lost": "same key again",
    },
    "an answer without stop reason or usage": {
        "sent, no answer": "charge the bound",
        "mid-stream": "charge the bound",
    },
    "the host cancels": {
        "before the reserve": "nothing held",
        "reserved, not sent": "release",
        "sent, no answer": "charge the bound",
        "mid-stream": "charge the bound",
        "answered, not committed": "commit usage, then stop",
        "commit's answer lost": "same key again",
    },
    "the process is killed": {
        "before the reserve": "nothing held",
        "reserved, not sent": "expires by TTL",
        "sent, no answer": "expiry (embedded) or next start (remote) books the bound",
        "mid-stream": "the same",
        "answered, not committed": "next start books the usage or the bound",
        "commit's answer lost": "journal replays",
    },
    "the authority is away": {
        "before the reserve": "clear error, nothing sent",
        "answered, not committed": "journal, replay",
        "commit's answer lost": "same key again",
    },
    "the authority says 410, expired": {
        "answered, not committed": "booked as event, same key",
    },
}

Fate = Literal["nothing", "released", "expired", "bound", "usage"]
"""What becomes of a turn's reservation: there is none, it is given back, it runs out, or so much is charged."""

Cancels = Literal["while it is held", "at the point", "while its input is counted"]
"""When the host cancels: while Claude holds its answer back, while the process waits at its point, or before that."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to bring a cell about, and what it becomes.

    Attributes:
        row: what goes wrong.
        moment: when.
        how: tells it from the other cases of its cell.
        script: what Claude answers until then; each answer is one request that reaches it.
        fate: what becomes of the reservation of the last turn, once a new process has started.
        status: how the delegation has stopped then.
        on: the kinds of authority on which the cell can occur in this way.
        point: where the process is killed or waits.
        is_killed_while_held: killed from outside, while Claude holds its answer back.
        cancels: when the host cancels.
        mishaps: what the proxy does to the remote authority's requests, in order.
        lapses: whether every lease runs out before the next start, or (where the process lives) while Claude answers.
        is_event: whether a remote authority has it as an event, because the reservation had run out.
        is_away: whether the authority is away from when Claude answers until the process has ended.
        is_unreachable: whether Claude's endpoint is not there.
        tools: what the sub-agent may use.
        says: what the hint must name, where the process lives to tell.
    """

    row: Row
    moment: Moment
    how: str
    fate: Fate
    script: Sequence[Answer] = ()
    status: str = "failed"
    on: Sequence[Kind] = ("embedded", "remote")
    point: Point | None = None
    is_killed_while_held: bool = False
    cancels: Cancels | None = None
    mishaps: Sequence[tuple[Operation, str]] = ()
    lapses: bool = False
    is_event: bool = False
    is_away: bool = False
    is_unreachable: bool = False
    tools: Sequence[str] = ()
    says: str = ""

    def __str__(self) -> str:
        return f"{self.row}; {self.moment}; {self.how}"


# A held answer is held by an event of the test's own loop: the test puts it in.
HELD = Turn(text="Never.")
HALF = Turn(text="Half of it and never more.", hold_at="middle")
ANSWER = Turn(text="So far.")
WORK = Turn(text="So far.", tool_calls=(ToolCall("shed__count"),))


def _refused(how: str, *script: Answer, fate: Fate = "released", status: str = "failed", says: str = "") -> Case:
    return Case(
        row="Claude refuses (429, 529, other 4xx)", moment="sent, no answer",
        how=how, script=script, fate=fate, status=status, says=says,
    )  # fmt: skip


def _failed(moment: Moment, how: str, answer: Answer, fate: Fate = "bound") -> Case:
    return Case(
        row="Claude fails (5xx, 408, silence, reset)", moment=moment, how=how, script=[answer], fate=fate, says="bound"
    )


def _broken(moment: Moment, fault: Fault, status: str = "failed") -> Case:
    return Case(
        row="an answer without stop reason or usage", moment=moment, how=fault,
        script=[Turn(text="Half and half.", fault=fault)], fate="bound", status=status,
    )  # fmt: skip


def _cancelled(moment: Moment, how: str, fate: Fate, **how_to: object) -> Case:
    case = {"row": "the host cancels", "status": "cancelled", **how_to}
    return Case(moment=moment, how=how, fate=fate, **case)  # type: ignore[arg-type]


def _killed(moment: Moment, how: str, fate: Fate, **how_to: object) -> Case:
    return Case(row="the process is killed", moment=moment, how=how, fate=fate, **how_to)  # type: ignore[arg-type]


def _killed_at(moment: Moment, point: str, fate: Fate, how: str = "", **how_to: object) -> Case:
    # An answer that was final, and was written down, ends the delegation: nobody has to ask for it again.
    status = "completed" if fate == "usage" else "failed"
    return _killed(moment, f"{point}{how}", fate, point=Point(name=point), status=status, **how_to)


def _away(moment: Moment, how: str, fate: Fate, **how_to: object) -> Case:
    return Case(row="the authority is away", moment=moment, how=how, fate=fate, **how_to)  # type: ignore[arg-type]


_WRITTEN = "after the answer is written down"
SPEND_WRITTEN = "after the spend is written down"
_REMOTE: dict[str, object] = {"on": ("remote",)}
_DONE: dict[str, object] = {"script": [ANSWER], "status": "completed"}

CASES: Sequence[Case] = [
    _refused("429, again and again", *[Failure(status=429)] * 4, says="429"),
    _refused("529, again and again", *[Failure(status=529)] * 4, says="529"),
    _refused("400", Failure(status=400), says="400"),
    _refused("429, then an answer", Failure(status=429), ANSWER, fate="usage", status="completed"),

    Case(
        row="Claude fails (5xx, 408, silence, reset)", moment="reserved, not sent", how="not there",
        fate="released", is_unreachable=True, says="reached",
    ),
    _failed("sent, no answer", "500", Failure(status=500)),
    _failed("sent, no answer", "408", Failure(status=408)),
    _failed("sent, no answer", "silence", Turn(text="Never.", fault="hang_before_headers")),
    _failed("sent, no answer", "reset", Turn(text="Never.", fault="reset_before_headers")),
    _failed("mid-stream", "silence", Turn(text="Half and half.", fault="hang_mid_stream")),
    _failed("mid-stream", "reset", Turn(text="Half and half.", fault="reset_mid_stream")),
    _failed("mid-stream", "an error event", Turn(text="Half and half.", fault="error_event")),
    Case(
        row="Claude fails (5xx, 408, silence, reset)", moment="answered, not committed", how="only the end is missing",
        script=[Turn(text="So far.", fault="no_message_stop")], fate="usage", status="completed",
    ),
    Case(
        row="Claude fails (5xx, 408, silence, reset)", moment="commit's answer lost", how="only the end is missing",
        script=[Turn(text="So far.", fault="no_message_stop")], fate="usage", status="completed", on=("remote",),
        mishaps=[("commit", "lost")],
    ),

    _broken("sent, no answer", "empty_stream"),
    _broken("mid-stream", "no_message_delta"),
    _broken("mid-stream", "no_usage", status="completed"),  # the answer is whole, only its cost is not known

    _cancelled("before the reserve", "while its input is counted", "nothing", cancels="while its input is counted"),
    _cancelled(
        "reserved, not sent", "before the departure", "released",
        point=Point(name="after the reserve", kills=False), cancels="at the point",
    ),
    _cancelled(
        "reserved, not sent", "after the departure", "released",
        point=Point(name="after the departure", kills=False), cancels="at the point",
    ),
    _cancelled("sent, no answer", "no headers", "bound", script=[HELD], cancels="while it is held"),
    _cancelled("mid-stream", "half an answer", "bound", script=[HALF], cancels="while it is held"),
    _cancelled(
        "answered, not committed", "written down", "usage", script=[WORK], tools=["shed__count"],
        point=Point(name=_WRITTEN, kills=False), cancels="at the point",
    ),
    _cancelled(
        "commit's answer lost", "while it commits", "usage", script=[WORK], tools=["shed__count"],
        point=Point(name=_WRITTEN, kills=False), cancels="at the point", mishaps=[("commit", "lost")], **_REMOTE,
    ),

    _killed_at("before the reserve", "before the reserve", "nothing"),
    _killed_at("reserved, not sent", "after the reserve", "expired", lapses=True),
    # Nothing was sent, but nobody can know that: what is written down may have left.
    _killed_at("reserved, not sent", SPEND_WRITTEN, "bound"),
    _killed_at("reserved, not sent", SPEND_WRITTEN, "bound", ", long ago", lapses=True, is_event=True),
    _killed_at("reserved, not sent", "after the departure", "bound"),
    _killed("sent, no answer", "no headers", "bound", script=[HELD], is_killed_while_held=True),
    _killed(
        "sent, no answer", "long ago", "bound", script=[HELD], is_killed_while_held=True, lapses=True, is_event=True
    ),
    _killed("mid-stream", "half an answer", "bound", script=[HALF], is_killed_while_held=True, tools=["shed__count"]),
    _killed(
        "mid-stream", "long ago", "bound", script=[HALF], is_killed_while_held=True, tools=["shed__count"],
        lapses=True, is_event=True,
    ),
    _killed_at("answered, not committed", "after the answer", "bound", script=[ANSWER]),
    _killed_at("answered, not committed", _WRITTEN, "usage", script=[ANSWER]),
    _killed_at("answered, not committed", _WRITTEN, "usage", ", long ago", script=[ANSWER], lapses=True, is_event=True),
    _killed_at("answered, not committed", "before the commit leaves", "usage", script=[ANSWER]),
    _killed_at(
        "answered, not committed", "before the commit leaves", "usage", ", long ago", script=[ANSWER],
        lapses=True, is_event=True,
    ),
    _killed_at("commit's answer lost", "before the commit's answer", "usage", script=[ANSWER]),
    _killed_at(
        "commit's answer lost", "before the commit's answer", "usage", ", long ago", script=[ANSWER], lapses=True
    ),
    _killed_at("commit's answer lost", "before the next write", "usage", script=[ANSWER]),

    _away("before the reserve", "away", "nothing", is_away=True, says="authority"),
    _away("before the reserve", "503", "nothing", mishaps=[("reserve", "503")] * 2, says="authority", **_REMOTE),
    _away("before the reserve", "silent", "nothing", mishaps=[("reserve", "hang")] * 2, says="authority", **_REMOTE),
    _away("before the reserve", "its answer lost once", "usage", mishaps=[("reserve", "lost")], **_DONE, **_REMOTE),
    _away(
        "before the reserve", "the answer to a hold lost once", "usage", mishaps=[("reserve", "lost")],
        tools=["shed__count"], **_DONE, **_REMOTE,
    ),
    _away(
        "before the reserve", "its answers lost", "expired", mishaps=[("reserve", "lost")] * 2, says="authority",
        lapses=True, **_REMOTE,
    ),
    _away(
        "before the reserve", "503 at the departure", "released", mishaps=[("extend", "503")] * 2, says="authority",
        **_REMOTE,
    ),
    _away(
        "before the reserve", "the departure's answers lost", "released", mishaps=[("extend", "lost")] * 2,
        says="authority", **_REMOTE,
    ),
    _away(
        "before the reserve", "the departure's answer lost once", "usage", mishaps=[("extend", "lost")],
        **_DONE, **_REMOTE,
    ),
    _away("answered, not committed", "503 once", "usage", mishaps=[("commit", "503")], **_DONE, **_REMOTE),
    _away("answered, not committed", "silent once", "usage", mishaps=[("commit", "hang")], **_DONE, **_REMOTE),
    _away("answered, not committed", "until the process has ended", "usage", is_away=True, **_DONE),
    _away(
        "answered, not committed", "until the process has long ended", "usage", is_away=True, lapses=True,
        is_event=True, **_DONE,
    ),
    _away(
        "answered, not committed", "until the process has long ended, with a hold", "usage", is_away=True, lapses=True,
        is_event=True, tools=["shed__count"], **_DONE,
    ),
    _away("commit's answer lost", "once", "usage", mishaps=[("commit", "lost")], **_DONE, **_REMOTE),
    _away("commit's answer lost", "twice", "usage", mishaps=[("commit", "lost")] * 2, **_DONE, **_REMOTE),

    Case(
        row="the authority says 410, expired", moment="answered, not committed", how="while Claude answered",
        script=[HELD], fate="usage", status="completed", lapses=True, is_event=True,
    ),
    Case(
        row="the authority says 410, expired", moment="answered, not committed", how="and the event's answer lost",
        script=[HELD], fate="usage", status="completed", lapses=True, is_event=True, on=("remote",),
        mishaps=[("event", "lost")],
    ),
]  # fmt: skip
