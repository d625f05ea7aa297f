"""``python -m gpt2jax`` is ``gpt2jax``."""

import sys

from gpt2jax.cli import main

sys.exit(main())
