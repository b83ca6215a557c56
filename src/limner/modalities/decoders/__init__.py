"""Decoders: how the hidden states of an out-span become a picture.

Each file adapts one kind of generator from diffusers to `limner.modalities.base.Decoder`;
`autoencoder` owns the small latent space that a generator trained from scratch works in.
"""
