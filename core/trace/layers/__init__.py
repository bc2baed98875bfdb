"""Layers that still run after channels, or whole attention heads, have left them."""
