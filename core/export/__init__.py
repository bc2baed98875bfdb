"""Stage 7: files that travel without this project."""
