"""Fuzzing of what strangers send: targets with their oracles, seeds, edits, and the corpus that was learned."""
