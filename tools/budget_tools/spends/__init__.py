"""Reservation of budget and settlement of what was spent."""
