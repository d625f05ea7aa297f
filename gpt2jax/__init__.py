"""GPT-2 in pure-functional JAX and Flax.

Importing the package imports nothing else; import the room you need: ``gpt2jax.model``, ``gpt2jax.generate.text``.
"""

__version__ = "0.1.0"
