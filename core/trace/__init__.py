"""Stage 2: run the network once, record its operators, find which channels hang together."""
