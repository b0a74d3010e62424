"""Delegations that outlive their process: one durable file for all processes of a data directory."""
