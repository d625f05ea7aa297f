"""Measurements: ``python -m benchmarks VERB`` beside peers, and scripts of their own for the rest."""
