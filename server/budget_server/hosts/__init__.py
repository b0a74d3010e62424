"""MCP hosts: the place of each one's configuration, and writing an entry there."""
