"""The logic of the tools: prices, bounds, reservations and the budgeted delegation loop.

This package knows MCP only at the signature of each tool, and knows the budget authority only as the
``runcycles.AsyncCyclesClient`` interface, so an agent author can use it without the server.
"""
