"""Layer 5: how good a model is: benchmarks, metrics, intervals, report."""
