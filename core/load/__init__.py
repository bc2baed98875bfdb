"""Stage 1: models, weights and images from names and files."""
