"""Layer 4: how weights change: stage, plan, trainer loop, run state, metrics."""
