"""The tools, resources and prompts that the conformance suite calls by name.

What each must answer is said by the suite (``conformance list --server`` names the scenarios; a failing one says what
it missed). Texts and names here are the suite's, not ours. A server without them would pass for refusing unknown names.
"""

import base64
import json
from collections.abc import Callable
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field, JsonValue

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.mcp_tools.toolkit import Toolkit

Ctx = Context[Toolkit, Any]

STEP_SECONDS = 0.05
"""The suite wants notifications of one call to come apart from each other."""

PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
    b"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
).decode()
"""One black pixel."""

WAV = base64.b64encode(
    b"RIFF\x26\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00@\x1f\x00\x00\x80>\x00\x00\x02\x00\x10\x00"
    b"data\x02\x00\x00\x00\x00\x00"
).decode()
"""One silent sample."""

DRAFT_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
"""The schema that the suite looks for, keyword by keyword."""


class Answer(BaseModel):
    """What ``test_elicitation`` asks for."""

    username: str
    email: str


class WithDefaults(BaseModel):
    """One field of each primitive type, with its default (SEP-1034)."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field("active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


def _titled(*names: str) -> list[JsonValue]:
    return [{"const": name, "title": name.capitalize()} for name in names]


class WithEnums(BaseModel):
    """The five ways to offer a choice (SEP-1330)."""

    untitledSingle: str = Field(json_schema_extra={"enum": ["one", "two"]})  # noqa: N815 - the suite's name
    titledSingle: str = Field(json_schema_extra={"oneOf": _titled("one", "two")})  # noqa: N815
    untitledMulti: list[str] = Field(  # noqa: N815
        json_schema_extra={"items": {"type": "string", "enum": ["one", "two"]}}
    )
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": _titled("one", "two")}})  # noqa: N815
    legacyEnum: str = Field(  # noqa: N815
        json_schema_extra={"enum": ["one", "two"], "enumNames": ["One", "Two"]}
    )


def test_simple_text() -> str:
    """Answer with text."""
    return "This is a simple text response for testing."


def test_image_content() -> list[ImageContent]:
    """Answer with an image."""
    return [_image()]


def test_audio_content() -> list[AudioContent]:
    """Answer with sound."""
    return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]


def test_embedded_resource() -> list[EmbeddedResource]:
    """Answer with a resource."""
    return [_embedded("test://embedded-resource", "This is an embedded resource content.")]


def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Answer with several kinds of content."""
    data = json.dumps({"test": "data", "value": 123})
    return [
        _text("Multiple content types test:"),
        _image(),
        _embedded("test://mixed-content-resource", data, "application/json"),
    ]


def test_error_handling() -> str:
    """Fail, as a tool of this server does."""
    raise InvalidArgumentError("This tool intentionally returns an error for testing")


async def test_tool_with_logging(ctx: Ctx) -> str:
    """Log in the middle of a call."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(message)
        await anyio.sleep(STEP_SECONDS)
    return "Logged."


async def test_tool_with_progress(ctx: Ctx) -> str:
    """Report progress in the middle of a call."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100, f"{done} of 100")
        await anyio.sleep(STEP_SECONDS)
    return "Done."


async def test_sampling(prompt: str, ctx: Ctx) -> str:
    """Ask the client's model."""
    answer = await ctx.session.create_message(
        messages=[_said(prompt)], max_tokens=100, related_request_id=ctx.request_id
    )
    return f"LLM response: {answer.content.text if answer.content.type == 'text' else ''}"


async def test_elicitation(message: str, ctx: Ctx) -> str:
    """Ask the client's user."""
    return await _elicited(ctx, message, Answer)


async def test_elicitation_sep1034_defaults(ctx: Ctx) -> str:
    """Ask with defaults."""
    return await _elicited(ctx, "Who are you?", WithDefaults)


async def test_elicitation_sep1330_enums(ctx: Ctx) -> str:
    """Ask with choices."""
    return await _elicited(ctx, "Which ones?", WithEnums)


async def test_reconnection(ctx: Ctx) -> str:
    """Close the stream of the call, whose answer then waits for the client to come back."""
    await ctx.close_sse_stream()
    await anyio.sleep(4 * STEP_SECONDS)
    return "Reconnection test completed."


def test_missing_capability(ctx: Ctx) -> str:
    """Refuse a client whose model may not be asked."""
    if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool needs sampling.",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "The client may be asked."


async def test_streaming_elicitation(ctx: Ctx) -> str | InputRequiredResult:
    """Say how far it is before asking: the stream must bring no request of its own."""
    await ctx.report_progress(1, 2)
    return InputRequiredResult(input_requests={"user_name": _form("What is your name?", "name")})


async def test_logging_tool(ctx: Ctx) -> str:
    """Log, which reaches only a client that asked for it."""
    await ctx.info("Logged.")
    return "Logged."


async def test_trigger_tool_change(ctx: Ctx) -> str:
    """Announce other tools."""
    await ctx.notify_tools_changed()
    return "Announced."


async def test_trigger_prompt_change(ctx: Ctx) -> str:
    """Announce other prompts."""
    await ctx.notify_prompts_changed()
    return "Announced."


def test_x_mcp_header(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "",  # noqa: PT028 - no test of pytest's
) -> str:
    """Have an argument that HTTP carries in a header as well (SEP-2243)."""
    return f"region={region}"


def json_schema_2020_12_tool() -> str:
    """Have a schema with every keyword that a client must be shown."""
    return "Called."


def test_input_required_result_elicitation(ctx: Ctx) -> str | InputRequiredResult:
    """Ask for a name (SEP-2322, as all that follow)."""
    found = _content(ctx, "user_name")
    if "name" in found:
        return f"Hello, {found['name']}!"
    return InputRequiredResult(input_requests={"user_name": _form("What is your name?", "name")})


def test_input_required_result_sampling(ctx: Ctx) -> str | InputRequiredResult:
    """Ask the client's model."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if isinstance(answer, CreateMessageResult) and answer.content.type == "text":
        return f"The model says: {answer.content.text}"
    return InputRequiredResult(input_requests={"capital_question": _question("What is the capital of France?")})


def test_input_required_result_list_roots(ctx: Ctx) -> str | InputRequiredResult:
    """Ask for the client's roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if isinstance(answer, ListRootsResult):
        return f"Roots: {', '.join(str(root.uri) for root in answer.roots)}"
    return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})


def test_input_required_result_request_state(ctx: Ctx) -> str | InputRequiredResult:
    """Give a state along, and want it back."""
    if "ok" in _content(ctx, "confirm") and ctx.request_state == "asked":
        return "state-ok"
    return InputRequiredResult(input_requests={"confirm": _confirmation()}, request_state="asked")


def test_input_required_result_tampered_state(ctx: Ctx) -> str | InputRequiredResult:
    """Give a state along; one that was tampered with never comes here."""
    if ctx.request_state is not None:
        return f"state-ok: {ctx.request_state}"
    return InputRequiredResult(input_requests={"confirm": _confirmation()}, request_state="asked")


def test_input_required_result_multiple_inputs(ctx: Ctx) -> str | InputRequiredResult:
    """Ask for three things at once."""
    requests: dict[str, InputRequest] = {
        "user_name": _form("What is your name?", "name"),
        "greeting": _question("Greet me."),
        "client_roots": ListRootsRequest(),
    }
    if requests.keys() <= (ctx.input_responses or {}).keys():
        return "All is here."
    return InputRequiredResult(input_requests=requests, request_state="asked")


def test_input_required_result_multi_round(ctx: Ctx) -> str | InputRequiredResult:
    """Ask twice."""
    name, color = _content(ctx, "step1").get("name"), _content(ctx, "step2").get("color")
    if color is not None and ctx.request_state:
        return f"{ctx.request_state} likes {color}."
    if name is not None:
        return InputRequiredResult(
            input_requests={"step2": _form("Step 2: What is your favorite color?", "color")}, request_state=str(name)
        )
    return InputRequiredResult(
        input_requests={"step1": _form("Step 1: What is your name?", "name")}, request_state="someone"
    )


def test_input_required_result_capabilities(ctx: Ctx) -> InputRequiredResult:
    """Ask only for what the client can give."""
    can = ctx.client_capabilities
    requests: dict[str, InputRequest] = {}
    if can is not None and can.sampling is not None:
        requests["sample"] = _question("Say hello.")
    if can is not None and can.elicitation is not None:
        requests["ask"] = _form("What is your name?", "name")
    return InputRequiredResult(input_requests=requests, request_state="asked")


def test_simple_prompt() -> str:
    """Be a prompt."""
    return "This is a simple prompt for testing."


def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """Take arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803 - the suite's name
    """Embed a resource."""
    embedded = _embedded(resourceUri, "Embedded resource content for testing.")
    return [UserMessage(embedded), UserMessage("Please process the embedded resource above.")]


def test_prompt_with_image() -> list[UserMessage]:
    """Show an image."""
    return [UserMessage(_image()), UserMessage("Please analyze the image above.")]


def test_input_required_result_prompt(ctx: Ctx) -> str | InputRequiredResult:
    """Ask before it is a prompt."""
    found = _content(ctx, "user_context")
    if "context" in found:
        return f"In this context: {found['context']}"
    return InputRequiredResult(input_requests={"user_context": _form("Which context?", "context")})


def static_text() -> str:
    """Text to read."""
    return "This is the content of the static text resource."


def static_binary() -> bytes:
    """Bytes to read."""
    return base64.b64decode(PNG)


def template(id: str) -> str:  # noqa: A002 - the suite's name
    """Text that depends on its name."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def watched() -> str:
    """Something to subscribe to."""
    return "Watched."


_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_tool_with_logging,
    test_tool_with_progress,
    test_sampling,
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
    test_reconnection,
    test_missing_capability,
    test_streaming_elicitation,
    test_logging_tool,
    test_trigger_tool_change,
    test_trigger_prompt_change,
    test_x_mcp_header,
    test_input_required_result_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_tampered_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_capabilities,
)

TOOLS = (
    *(Tool.from_function(each) for each in _FUNCTIONS),
    Tool.from_function(json_schema_2020_12_tool).model_copy(update={"parameters": DRAFT_2020_12}),
)

PROMPTS = tuple(
    Prompt.from_function(each)
    for each in (
        test_simple_prompt,
        test_prompt_with_arguments,
        test_prompt_with_embedded_resource,
        test_prompt_with_image,
        test_input_required_result_prompt,
    )
)


def add_resources(server: MCPServer[Toolkit]) -> None:
    """Let clients read what the suite reads."""
    server.resource("test://static-text", mime_type="text/plain")(static_text)
    server.resource("test://static-binary", mime_type="image/png")(static_binary)
    server.resource("test://template/{id}/data", mime_type="application/json")(template)
    server.resource("test://watched-resource", mime_type="text/plain")(watched)


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _image() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def _embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


def _said(text: str) -> SamplingMessage:
    return SamplingMessage(role="user", content=_text(text))


def _question(text: str) -> CreateMessageRequest:
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[_said(text)], max_tokens=100))


def _form(message: str, field: str, kind: str = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _confirmation() -> ElicitRequest:
    return _form("Please confirm", "ok", "boolean")


def _content(ctx: Ctx, key: str) -> dict[str, Any]:
    """What the user has filled in; nothing where there is no answer, or another than was asked for."""
    answer = (ctx.input_responses or {}).get(key)
    return dict(answer.content or {}) if isinstance(answer, ElicitResult) else {}


async def _elicited(ctx: Ctx, message: str, model: type[BaseModel]) -> str:
    result = await ctx.elicit(message, model)
    content = result.data.model_dump_json() if result.action == "accept" else "{}"
    return f"action={result.action}, content={content}"
