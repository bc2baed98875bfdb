"""Stage 2: run the network once, record its operators, find which channels hang together."""

from core.trace.channels import trace_channels as trace_channels
