"""Commands that measure methods: many runs, kept results, tables."""
