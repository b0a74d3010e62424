"""Prices, usage and token counts: rules without I/O."""
