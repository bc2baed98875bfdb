"""Stage 5: build the smaller network a plan describes."""
