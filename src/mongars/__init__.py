"""monGARS serving: a self-hosted assistant on the operator's own Ray cluster."""
