"""The MCP tools, one module each, and their shared parts."""
