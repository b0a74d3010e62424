"""Answers of tools: a structured result for programs, and the same facts in a short text for a model to read."""

from datetime import UTC, datetime

from mcp.types import CallToolResult, TextContent
from pydantic import BaseModel

from budget_tools.core.errors import BudgetError


def answer(result: BaseModel, text: str) -> CallToolResult:
    """Return an answer with a result and its text.

    Some hosts show their model only the structured result, others only the text: both must hold everything needed.
    Fields that are ``None`` are left out.
    """
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=result.model_dump(mode="json", exclude_none=True),
    )


def moment(at_ms: int) -> str:
    """Format an instant, given in milliseconds since 1970, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="seconds")


def failure(error: BudgetError) -> CallToolResult:
    """Return an error as an answer: a stable code and one sentence."""
    return CallToolResult(
        content=[TextContent(type="text", text=f"{error.code}: {error.message}")],
        structured_content={"code": error.code, "message": error.message},
        is_error=True,
    )
