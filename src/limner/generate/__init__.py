"""Layer 4: how Documents are continued: request, row state machine, engine, sampling, events."""
