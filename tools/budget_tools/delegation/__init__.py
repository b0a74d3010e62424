"""The budgeted delegation loop: one reservation per turn, held before the request leaves."""
