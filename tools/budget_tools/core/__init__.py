"""Basic values of all other packages: money, scopes, subjects, ids, errors."""
