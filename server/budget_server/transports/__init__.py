"""How bytes reach a host, and how a process ends."""
