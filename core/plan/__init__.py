"""Stage 4: decide which units stay; a Plan is a record and changes nothing."""
