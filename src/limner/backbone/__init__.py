"""Layer 2: the LLM: an adapter composing transformers' causal language models, its masks, cache and LoRA."""
