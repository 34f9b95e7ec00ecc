"""Pictures of what ``reconstruct.py`` made of the same scans by several methods."""

from collections.abc import Sequence
from pathlib import Path

from spinwarp.figures import comparison, in_words, save
from spinwarp.report.volumes import read, reconstructed


def draw_images(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Draw the middle slice of each scan that several methods have; return the paths of the pictures.

    Parameters
    ----------
    paths : ``.h5`` files of ``reconstruct.py``.
    folder : for the pictures.

    Raises
    ------
    InputError : if a file cannot be read.
    """
    drawn: list[Path] = []
    sources = [source for source in reconstructed(paths) if len(source.files) > 1]
    for number, source in enumerate(sources):
        volume = read(source)
        middle = volume.slices[len(volume.slices) // 2]
        shown = {in_words(method): of[middle] for method, of in volume.pictures.items()}
        # predicted intervals of different levels must not share a row
        halves = {name: picture.half_width / 2 for name, picture in shown.items() if picture.half_width is not None}
        plain = set(volume.intervals.values()) == {"2 std"}
        figure = comparison(
            None,
            {name: picture.image for name, picture in shown.items()},
            std=halves if plain else None,
            title=f"{source.name}, slice\u00a0{middle}",
            subtitle=source.group,
        )
        alone = sum(other.name == source.name for other in sources) == 1
        drawn.append(folder / f"{source.name if alone else f'{source.name}_{number}'}.png")
        save(figure, drawn[-1])
    return drawn
