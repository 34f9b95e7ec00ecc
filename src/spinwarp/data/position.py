"""How far training has come: what a resumed run goes on with."""

from typing import Any


def next_batch(trainer: Any) -> tuple[int, int]:
    """Epoch and batch of it that a Lightning trainer trains next; batches are counted on each process.

    Batches count as soon as they have been trained, whatever the workers of the loader have prepared, and an epoch
    that ``max_steps`` cut short is not over.
    """
    epoch = max(trainer.fit_loop.epoch_progress.current.started - 1, 0)
    batch = trainer.fit_loop.epoch_loop.batch_progress.current.processed
    return (epoch + 1, 0) if batch >= trainer.num_training_batches else (epoch, batch)
