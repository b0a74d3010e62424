"""A scripted Claude: a Messages endpoint on a loopback socket whose answers come from a script, not from a model.

The demonstration and the tests point the real Anthropic SDK at it, so the whole wire format is exercised and nothing
has to be patched. Nothing here thinks: ids start with ``msg_scripted_``, so that no answer passes for a real one.

A script is a list of answers, taken in order, or a function from a request and its number (1, 2, …) to an answer. An
answer is a `Turn` (what Claude says) or a `Failure` (an HTTP error). Requests that the real API would refuse are
refused here too, with its status and envelope, and use up no answer. A request past the end of a list gets an HTTP 500
that says so.

The modules, each of which knows only those above it:

- ``script``: what an answer can be, and what can go wrong with it;
- ``wire``: paths, errors, counts and JSON, as the API has them;
- ``message``: an answer as the API would give it, as the events of its stream;
- ``sse``: how events are written;
- ``transformations``: what gateways do to the events of an answer;
- ``profiles``: gateways by name;
- ``caching``: what the API would have read from its prompt cache;
- ``checks``: what the API would refuse about a request;
- ``billing``: what was billed, whatever the client was told;
- ``exchange``: one request and its answer on the way;
- ``endpoint``: the socket, and which answer goes to whom;
- ``scripts``: scripts to start it with.
"""

from budget_server.demo.scripted_claude.billing import Bill
from budget_server.demo.scripted_claude.endpoint import ScriptedClaude
from budget_server.demo.scripted_claude.exchange import ReceivedRequest
from budget_server.demo.scripted_claude.profiles import PROFILES, Profile
from budget_server.demo.scripted_claude.script import Answer, Failure, Fault, Script, ToolCall, Turn, Usage
from budget_server.demo.scripted_claude.wire import (
    COUNT_TOKENS_PATH,
    INPUT_BYTES_PER_TOKEN,
    MESSAGES_PATH,
    OUTPUT_BYTES_PER_TOKEN,
    count_input_tokens,
)

__all__ = [
    "COUNT_TOKENS_PATH",
    "INPUT_BYTES_PER_TOKEN",
    "MESSAGES_PATH",
    "OUTPUT_BYTES_PER_TOKEN",
    "PROFILES",
    "Answer",
    "Bill",
    "Failure",
    "Fault",
    "Profile",
    "ReceivedRequest",
    "Script",
    "ScriptedClaude",
    "ToolCall",
    "Turn",
    "Usage",
    "count_input_tokens",
]
