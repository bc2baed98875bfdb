"""Tests that need a browser. A package, so that server and browser end with the last of them."""
