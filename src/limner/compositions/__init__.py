"""Layer 5: which parts make which model: wiring, and maps of upstream weights."""
