"""The language model of recipes that need no download: a Llama of a few layers, from random weights."""

from transformers import LlamaConfig, LlamaForCausalLM

from limner.tokens.tokenizer import TextTokenizer


def small_llama(
    tokenizer: TextTokenizer,
    *,
    d_model: int,
    num_layers: int,
    num_heads: int,
    context_length: int,
    intermediate_size: int,
) -> LlamaForCausalLM:
    """A Llama over the tokens of `tokenizer`; input and output matrix are one."""
    config = LlamaConfig(
        vocab_size=len(tokenizer.tokenizer),
        hidden_size=d_model,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        max_position_embeddings=context_length,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.tokenizer.bos_token_id,
        eos_token_id=tokenizer.tokenizer.eos_token_id,
    )
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config)
