"""Layer 1: how a Document becomes ids and spans."""
