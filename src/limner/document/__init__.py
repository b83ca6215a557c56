"""Layer 0: what people write. Documents of text and media, and their outside forms (JSON, OpenAI parts, HTML)."""
