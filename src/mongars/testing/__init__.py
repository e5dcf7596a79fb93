"""Shipped fakes: deterministic clock, engine and a fault-injecting replica."""
