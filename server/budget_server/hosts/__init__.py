"""MCP hosts: where each keeps its configuration, and how an entry is written there."""
