"""The registry of LoRA adapters: immutable versions named by the digest of their files, and one manifest that selects them."""
