"""The demonstration's downstream server, through a real MCP client in memory and over stdio."""

import os
import sys
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from budget_server.demo.workshop import create_workshop

pytestmark = pytest.mark.anyio


async def call(name: str, **arguments: object) -> Any:
    """Call a tool of a new workshop."""
    with anyio.fail_after(5):
        async with Client(create_workshop()) as client:
            return await client.call_tool(name, arguments)


async def test_every_part_of_the_list_has_details_and_stock() -> None:
    """A sub-agent that follows the list never meets an unknown part."""
    with anyio.fail_after(5):
        async with Client(create_workshop()) as client:
            listed = await client.call_tool("list_parts", {})
            assert listed.structured_content is not None
            for part in listed.structured_content["parts"]:
                details = await client.call_tool("part_details", {"part": part})
                stock = await client.call_tool("stock", {"part": part})
                assert details.structured_content is not None
                assert stock.structured_content is not None
                assert details.structured_content["part"] == stock.structured_content["part"] == part


@pytest.mark.parametrize("tool", ["part_details", "stock"])
async def test_an_unknown_part_is_a_tool_error_that_names_the_known_ones(tool: str) -> None:
    """The demonstration shows what a sub-agent does with a tool's error."""
    result = await call(tool, part="flux-capacitor")

    assert result.is_error
    assert "'flux-capacitor'" in result.content[0].text
    assert "chain-11" in result.content[0].text


async def test_an_order_costs_its_quantity_times_the_price() -> None:
    """Results are structured, in whole cents."""
    result = await call("place_order", part="tube-700", quantity=20)

    assert not result.is_error
    assert result.structured_content == {
        "order": "order-1",
        "part": "tube-700",
        "quantity": 20,
        "cost_cents": 11_800,
        "delivery_days": 1,
    }


@pytest.mark.parametrize("quantity", [0, -1, 101, 2.5, "2"])
async def test_an_order_of_an_impossible_quantity_is_refused(quantity: object) -> None:
    """Nothing is ordered that was not asked for in whole pieces."""
    result = await call("place_order", part="tube-700", quantity=quantity)

    assert result.is_error
    assert "quantity" in result.content[0].text


async def test_orders_count_up_and_a_new_workshop_starts_afresh() -> None:
    """Each server keeps its own books, so that one demonstration does not show in the next."""
    for _ in range(2):
        with anyio.fail_after(5):
            async with Client(create_workshop()) as client:
                orders = [
                    await client.call_tool("place_order", {"part": "bell-brass", "quantity": 1}) for _ in range(2)
                ]
        numbers = [order.structured_content["order"] for order in orders if order.structured_content]
        assert numbers == ["order-1", "order-2"]


async def test_every_tool_has_a_description_an_output_schema_and_truthful_hints() -> None:
    """Only ordering changes anything."""
    with anyio.fail_after(5):
        async with Client(create_workshop()) as client:
            tools = (await client.list_tools()).tools

    assert all(tool.description and tool.output_schema and tool.annotations for tool in tools)
    read_only = {tool.name for tool in tools if tool.annotations and tool.annotations.read_only_hint}
    assert {tool.name for tool in tools} - read_only == {"place_order"}


async def test_the_module_serves_over_stdio() -> None:
    """The demonstration starts it as ``python -m budget_server.demo.workshop``."""
    # The SDK hands a server a short list of variables only; a PYTHONPATH that finds the package must come along.
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "budget_server.demo.workshop"], env={**os.environ}
    )
    with anyio.fail_after(20):
        async with Client(server) as client:
            result = await client.call_tool("stock", {"part": "saddle-03"})

    assert result.structured_content == {"part": "saddle-03", "shelf": "C1", "quantity": 0, "minimum_quantity": 1}
