"""The Messages API: the gated client, its stream, and schemas of answers."""
