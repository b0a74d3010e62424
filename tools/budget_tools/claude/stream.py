"""An answer of Claude, put together from the events of its stream.

Read here rather than by the SDK's own accumulator, for three reasons. The accumulator returns an answer whose end never
came as if it were whole, with one output token. It raises at the first event in another form than the API's, which
loses an answer that was paid for. And it builds the whole answer again at every piece, which takes longer than all the
rest of a turn.

An answer is complete at ``message_stop``, at ``[DONE]``, or once its stop reason came: the API sends the stop reason
and the final usage together, and nothing is sampled after them. Later events can only add to the known usage. Usage is
passed on as it was reported, every time: which report to believe is decided with the prices (``pricing.evidence``), not
here.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from budget_tools.claude.blocks import ContentBlocks, ToolUse, has_output
from budget_tools.claude.json import read_event
from budget_tools.core.text_safety import printable

__all__ = ["Reply", "ReplyReader", "StreamError", "ToolUse", "UsageReport"]

_DONE = "[DONE]"
"""End of OpenAI's streams; gateways that speak both send it after our end, or in place of it."""

_MAX_LABEL_CHARACTERS = 120
"""Maximum length of a stop reason, category or model id; longer ones are cut."""

_OTHER_PLATFORMS = ("msg_bdrk_", "msg_vrtx_")
"""Prefixes of message ids on the platforms that bill by rules of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageReport:
    """Usage that was reported, and where in the stream.

    At the start, the output is a placeholder; in the middle, more content came after it; at the end, none did.
    """

    counts: Any
    place: Literal["start", "middle", "end"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamError:
    """An error sent in a stream, in the endpoint's own words; ``type`` is ``""`` if it was not named."""

    type: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer, read to its end; it is complete only with a stop reason."""

    content: Sequence[Mapping[str, Any]]
    """The blocks as they go back to the API: thinking and its signatures verbatim."""
    text: str
    tool_uses: Sequence[ToolUse]
    stop_reason: str | None
    """``None`` if the answer broke off; ``""`` if it is complete and did not say why it stopped."""
    reports: Sequence[UsageReport] = ()
    """The usage that was reported, in order."""
    model: str = ""
    """The model that answered; ``""`` if it was not named."""
    refusal_category: str = ""
    """Why Claude declined, if it did and said so."""
    is_from_claude_api: bool = True
    """Whether the rules of Anthropic's own platform say what is billed."""
    is_several: bool = False
    """Whether more than one answer came in one stream."""
    problem: str = ""
    """Which parts of the answer could not be read; ``""`` if all could."""

    @property
    def has_output(self) -> bool:
        """Whether the model wrote anything."""
        return has_output(self.content)


class ReplyReader:
    """Reader of the events of one stream, in order.

    Args:
        taken_ids: ids of tool calls that the conversation has already.
    """

    def __init__(self, taken_ids: Collection[str] = ()) -> None:
        self.error: StreamError | None = None
        """The error that ended the stream before the answer was complete."""
        self.has_begun = False
        """Whether anything of an answer came."""
        self.has_ended = False
        """Whether the end of an answer came."""
        self._blocks = ContentBlocks(taken_ids)
        self._message_ids: list[str] = []
        self._model = ""
        self._reports: list[UsageReport] = []
        self._stop_reason: str | None = None
        self._category = ""
        self._problems: list[str] = []

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer came, even if its stream breaks now."""
        return self.has_ended or (self._stop_reason is not None and self.error is None)

    def take_sent(self, name: str, lines: Sequence[str]) -> None:
        """Add an event as it was sent.

        Args:
            name: believed if the data does not contain the type.
            lines: its data; each may be an event by itself, if the empty lines between events were left out.
        """
        data = "\n".join(lines).strip()
        event = read_event(data) if data else {}
        if isinstance(event, Mapping):
            self.take({**event, "type": event.get("type") or name or None})
        elif data == _DONE:
            self.has_ended = self.has_ended or (self.has_begun and self.error is None)
        elif name == "error":
            self.take({"type": "error", "error": data})
        elif len(lines) > 1 and event is None:
            for line in lines:
                self.take_sent("", [line])
        elif not self.is_complete:
            self._problems.append("an event of its stream is not a JSON object")

    def take(self, event: object) -> None:
        """Add the next event; unknown kinds add nothing (Messages API, streaming)."""
        if not isinstance(event, Mapping) or self.error is not None:
            return
        kind = event.get("type")
        if kind == "error" or (kind is None and event.get("error")):
            if not self.has_ended:
                self.error = stream_error(event)
            return
        match kind:
            case "message":
                self.take_message(event)
            case "message_start":
                self._start(event.get("message"))
            case "content_block_start" if not self.has_ended:
                self._note_content()
                self._blocks.open(event.get("index"), event.get("content_block"))
            case "content_block_delta" if not self.has_ended:
                self._note_content()
                self._blocks.add(event.get("index"), event.get("delta"))
            case "content_block_stop":
                self._blocks.close(event.get("index"))
            case "message_delta":
                self._note_stop(event.get("delta"))
                self._note_usage(event.get("usage"), "end")
            case "message_stop":
                self.has_begun = self.has_ended = True
                self._note_usage(event.get("usage"), "end")
            case _:
                pass

    def take_message(self, message: Mapping[str, Any]) -> None:
        """Add a whole message, as the API answers a request that did not ask for a stream."""
        self._identify(message)
        content = message.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        for index, block in enumerate(content if isinstance(content, list) else ()):
            self._note_content()
            self._blocks.open(index, block)
        self._note_stop(message)
        self._note_usage(message.get("usage"), "end")
        self.has_ended = True

    def reply(self) -> Reply:
        """Return the answer as far as it came."""
        content, tool_uses = self._blocks.finish()
        problems = dict.fromkeys([*self._problems, *self._blocks.problems])
        stop_reason = (self._stop_reason or "") if self.is_complete else None
        return Reply(
            content=content,
            text="".join(block["text"] for block in content if block["type"] == "text"),
            tool_uses=tool_uses,
            stop_reason=stop_reason,
            reports=self._reports,
            model=self._model,
            refusal_category=self._category if stop_reason == "refusal" else "",
            is_from_claude_api=not any(each.startswith(_OTHER_PLATFORMS) for each in self._message_ids),
            is_several=len(self._message_ids) > 1,
            problem=f"A part of the answer could not be read: {'; '.join(problems)}." if problems else "",
        )

    def _start(self, message: object) -> None:
        self.has_begun = True
        if not isinstance(message, Mapping):
            return
        self._identify(message)
        self._note_usage(message.get("usage"), "start")

    def _identify(self, message: Mapping[str, Any]) -> None:
        self.has_begun = True
        message_id = message.get("id")
        if isinstance(message_id, str) and message_id and message_id not in self._message_ids:
            self._message_ids.append(message_id)
        self._model = self._model or _label(message.get("model"))

    def _note_content(self) -> None:
        """Record that content came after every report so far: none of them was final."""
        self.has_begun = True
        if any(report.place == "end" for report in self._reports):
            self._reports = [replace(each, place="middle") if each.place == "end" else each for each in self._reports]

    def _note_stop(self, delta: object) -> None:
        self.has_begun = True
        if not isinstance(delta, Mapping) or self.has_ended:
            return
        if isinstance(delta.get("stop_reason"), str):
            self._stop_reason = _label(delta["stop_reason"])
        details = delta.get("stop_details")
        if isinstance(details, Mapping):
            self._category = _label(details.get("category")) or self._category

    def _note_usage(self, usage: object, place: Literal["start", "end"]) -> None:
        if usage is not None:
            self._reports.append(UsageReport(counts=usage, place=place))


def stream_error(body: object) -> StreamError:
    """Read an error as the API and gateways write it; its words may be any text, and are made safe when shown."""
    error: object = body.get("error") if isinstance(body, Mapping) and body.get("error") else body
    if not isinstance(error, Mapping):
        return StreamError(type="", message=error if isinstance(error, str) else "")
    kind = error.get("type")
    words = next(
        (error[name] for name in ("message", "detail", "msg", "error") if isinstance(error.get(name), str)), ""
    )
    return StreamError(type=_label(kind) if kind != "error" else "", message=words)


def _label(value: object) -> str:
    """Return a foreign name, cut and without characters that would command a terminal."""
    return printable(value[:_MAX_LABEL_CHARACTERS]) if isinstance(value, str) else ""
