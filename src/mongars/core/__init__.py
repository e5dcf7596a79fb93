"""The code that every other package may import: errors, generation types, clock, deadlines, identifiers."""
