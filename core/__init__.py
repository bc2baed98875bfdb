"""The pruning engine. Knows no browser and no plotting."""
