"""The decoder, its tokenizer, and its weights in and out."""
