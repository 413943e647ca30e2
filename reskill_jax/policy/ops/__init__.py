"""Array programs of the decoder: attention, rotary embedding."""
