"""The machine under a sensitivity scan: a tape made ready to be re-run often, in parts and narrower."""
