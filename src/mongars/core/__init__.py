"""The innermost ring: errors, generation types, clock, deadlines and ids."""
