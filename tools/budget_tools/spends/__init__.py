"""Reserving budget and settling what was spent."""
