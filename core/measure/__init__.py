"""Stage 3: what channels, groups and plans are worth and cost."""
