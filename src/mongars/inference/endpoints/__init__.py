"""The Ray endpoints: what is known of each, which one a request uses, and how many requests it gets."""
