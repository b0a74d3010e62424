"""What a host sees: tools, resources, prompts, subscriptions."""
