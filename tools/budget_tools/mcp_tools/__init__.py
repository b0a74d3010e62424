"""The MCP tools, one module each, and what they share."""
