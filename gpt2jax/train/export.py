"""A run's weights in the forms that other programs read."""

from pathlib import Path

from gpt2jax.files import remove_folder, remove_partial
from gpt2jax.weights.convert import card_beside, convert
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import Format


def export(run_dir: Path, step: int, forms: tuple[Format, ...]) -> list[str]:
    """Write the weights of ``step``'s checkpoint in each form to RUN/export, in the place of those of before.

    Returns:
        What there is to say of it, a line each.

    Raises:
        GPT2JaxError: a form cannot hold this model.
    """
    lines = []
    remove_partial(run_dir / "export")
    for form in forms:
        target = run_dir / "export" / (f"{form}.bin" if form == "llmc" else form)
        if target.is_dir():
            remove_folder(target)
        for file in (target, card_beside(target)):
            file.unlink(missing_ok=True)
        notes = convert(open_weights(run_dir / "checkpoints" / str(step)), target, form, progress=False)
        lines += [f"exported step {step}: {target}", *(f"note: {note}" for note in notes)]
    return lines
