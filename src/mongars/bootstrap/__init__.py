"""The composition root: the only package that chooses and connects the implementations of interfaces."""
