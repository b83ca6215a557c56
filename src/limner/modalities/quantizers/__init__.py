"""Pictures as tokens of dynamic number: what is kept, how the rest is merged into it, and the codebook."""
