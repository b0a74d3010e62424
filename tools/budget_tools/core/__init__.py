"""Values that everything else is written in: money, scopes, subjects, ids, errors."""
