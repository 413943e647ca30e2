"""Array programs of the decoder: attention, matrix products, rotary embedding."""
