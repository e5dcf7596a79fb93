"""The composition root: the only place where concrete technology is chosen."""
