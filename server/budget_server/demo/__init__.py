"""The demonstration: a scripted Claude, a small downstream MCP server, and the tour that uses both."""
