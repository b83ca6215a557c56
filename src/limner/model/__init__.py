"""Layer 3: the join of backbone and modalities."""
