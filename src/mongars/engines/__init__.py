"""Engines, which generate tokens, and embedders: their interfaces, their implementations and base models."""
