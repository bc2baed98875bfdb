"""Tensors in, tensors out, no model in sight; each solver opens with its objective."""
