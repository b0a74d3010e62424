"""The checks of ``cycles-budget-mcp doctor``: each reports the state of one thing, and what to do if it is wrong.

No check changes anything that a start of the server would not, and none reports anything that may be a secret.
"""
