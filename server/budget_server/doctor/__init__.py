"""What ``cycles-budget-mcp doctor`` looks at: each check says how one thing stands, and what to do where it does not.

No check changes anything that a start of the server would not, and none says anything that may be a secret.
"""
