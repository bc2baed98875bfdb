"""How layers follow when their weights lose channels."""
