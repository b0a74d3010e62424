"""The argument in which a call states the other parts of its request that have a price."""

from typing import Annotated, Any

from pydantic import Field

StatedOptions = Annotated[
    dict[str, Any] | None,
    Field(description="Of the request: {cache: 5m or 1h, speed, inference_geo, batch, service_tier}"),
]
"""``options``, as ``request_options`` reads them; their names are those of the Messages API if it has any."""

SameOptions = Annotated[dict[str, Any] | None, Field(description="As of reserve_budget.")]
"""The same for a tool that hosts list beside ``reserve_budget``: a description is paid for on every turn."""
