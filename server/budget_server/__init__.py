"""The process: how the tools reach a host, and where budgets live."""
