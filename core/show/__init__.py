"""Records as the rows, tables and pictures that people see and take away. Nothing here measures."""
