"""Response streams: decoding bytes into chunks, detecting cut streams, and continuing them."""
