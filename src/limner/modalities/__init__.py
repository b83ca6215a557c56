"""Layer 2: what a non-text thing is: encoders, projectors, decoders, guidance."""
