"""Measurements of monGARS: `make bench`."""
