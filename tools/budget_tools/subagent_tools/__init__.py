"""MCP servers whose tools a sub-agent may call."""
