"""Settings, and the paths, addresses and time zones that they name."""
