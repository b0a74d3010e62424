"""The server as a host sees it: tools, resources, prompts, subscriptions."""
