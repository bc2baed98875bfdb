"""Stage 6: what the built network does."""
