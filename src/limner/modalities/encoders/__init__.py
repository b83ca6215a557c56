"""Encoders: one file per pretrained network that turns media into feature rows."""
