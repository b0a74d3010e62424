"""A bicycle workshop's storeroom as an MCP server: the tools that the demonstration gives to its sub-agent.

A real server over stdio (``python -m budget_server.demo.workshop``) with made-up stock. Its orders end with it.
"""

from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

Quantity = Annotated[int, Field(strict=True, ge=1, le=100, description="How many pieces.")]
PartId = Annotated[str, Field(description="A part id as list_parts gives it, such as chain-11.")]


class PartDetails(BaseModel):
    """What the catalogue says about a part."""

    part: str
    name: str
    price_cents: int
    fits: str
    note: str


class PartList(BaseModel):
    """Every part of the catalogue, by id."""

    parts: list[str]


class Stock(BaseModel):
    """How much of a part lies on the shelf, and where."""

    part: str
    shelf: str
    quantity: int
    minimum_quantity: int


class Order(BaseModel):
    """An order that the supplier has confirmed."""

    order: str
    part: str
    quantity: int
    cost_cents: int
    delivery_days: int


_CATALOGUE = {
    details.part: details
    for details in (
        PartDetails(part="chain-11", name="Chain, 11-speed", price_cents=2890, fits="road and gravel",
                    note="Comes with one quick link. Everyone forgets to order a second."),
        PartDetails(part="pads-disc", name="Disc brake pads, resin", price_cents=1250, fits="two-piston calipers",
                    note="Quiet in the dry, philosophical in the rain."),
        PartDetails(part="tube-700", name="Inner tube, 700 x 28-38", price_cents=590, fits="28 inch wheels",
                    note="Sells itself on glass-strewn Mondays."),
        PartDetails(part="bell-brass", name="Brass bell", price_cents=1990, fits="any handlebar",
                    note="Rings for eleven seconds. We timed it."),
        PartDetails(part="saddle-03", name="Leather saddle, no. 3", price_cents=8900, fits="any seat post",
                    note="Comfortable after a mere thousand kilometres."),
    )
}  # fmt: skip


def _first_stock() -> dict[str, Stock]:
    shelves = [
        Stock(part="chain-11", shelf="B2", quantity=1, minimum_quantity=4),
        Stock(part="pads-disc", shelf="B3", quantity=14, minimum_quantity=10),
        Stock(part="tube-700", shelf="A1", quantity=3, minimum_quantity=20),
        Stock(part="bell-brass", shelf="window", quantity=7, minimum_quantity=2),
        Stock(part="saddle-03", shelf="C1", quantity=0, minimum_quantity=1),
    ]
    return {stock.part: stock for stock in shelves}


def create_workshop() -> MCPServer:
    """Build a workshop with full order books and the stock of a Monday morning."""
    stock_by_part = _first_stock()
    orders: list[Order] = []
    server = MCPServer(
        "workshop",
        instructions="The storeroom of a small bicycle workshop: what there is, what it costs, and how to order more.",
        log_level="WARNING",
    )
    reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    def known(part: str) -> str:
        if part not in _CATALOGUE:
            raise ToolError(f"The workshop has no part {part!r}; it knows {', '.join(_CATALOGUE)}.")
        return part

    # Coroutines although nothing waits: plain functions would run in threads and could sell one bell twice.
    @server.tool(annotations=reading)
    async def list_parts() -> PartList:
        """List the ids of all parts in the catalogue."""
        return PartList(parts=list(_CATALOGUE))

    @server.tool(annotations=reading)
    async def part_details(part: PartId) -> PartDetails:
        """Look up a part's name, price in cents, and what it fits."""
        return _CATALOGUE[known(part)]

    @server.tool(annotations=reading)
    async def stock(part: PartId) -> Stock:
        """Count how many pieces of a part are in stock, and how many should be."""
        return stock_by_part[known(part)]

    @server.tool(annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False))
    async def place_order(part: PartId, quantity: Quantity) -> Order:
        """Order pieces of a part from the supplier, who always delivers within three days."""
        order = Order(
            order=f"order-{len(orders) + 1}",
            part=known(part),
            quantity=quantity,
            cost_cents=quantity * _CATALOGUE[part].price_cents,
            delivery_days=1 + len(orders) % 3,
        )
        orders.append(order)
        return order

    return server


if __name__ == "__main__":
    create_workshop().run()
