"""Where Documents come from and how they are batched; import what you need from its modules."""
