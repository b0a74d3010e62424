"""Transports between a host and this process, and the process's end."""
