"""Raw data of Bruker: the folder of a scan of ParaVision 5 to 7, with ``acqp``, ``method`` and ``fid``.

``fid`` holds the readouts in the order of the loops of ParaVision: repetitions, second and first phase encoding in
steps of an echo train, slices and their echoes, and the echo train itself. Averages are summed by the scanner. A
readout holds its coils one after the other and is padded to whole kilobytes.
"""

import itertools
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spinwarp.acquisition import Header
from spinwarp.data.raw.lines import READOUT, Lines, Scan
from spinwarp.errors import InputError
from spinwarp.files import as_input_error
from spinwarp.geometry import Geometry

log = logging.getLogger(__name__)
_LONGEST = 16 * 2**20  # bytes of a parameter file
_MOST = 2**20  # values of a parameter
_BLOCK = 1024  # bytes that a readout is padded to
_TYPES = {"GO_32BIT_SGN_INT": "i4", "GO_16BIT_SGN_INT": "i2", "GO_32BIT_FLOAT": "f4"}
_UNSUPPORTED = re.compile(r"EPI|UTE|ZTE|SPIRAL|RADIAL|CSI|PRESS|STEAM|ISIS|SPECTRO|SINGLEPULSE|PRISM", re.IGNORECASE)
# from the coordinates of the gradients to those of the subject (LPS)
_SUBJECT = {"Head_Supine": np.diag([1.0, 1.0, 1.0]), "Head_Prone": np.diag([-1.0, -1.0, 1.0])}


class Parameters:
    """The parameters of a file in the JCAMP-DX format of ParaVision.

    Parameters
    ----------
    path : of the file.

    Raises
    ------
    InputError : if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with as_input_error(path, "parameter file of Bruker"), path.open("rb") as file:
            text = file.read(_LONGEST).decode("latin-1")
        lines = "\n".join(line for line in text.splitlines() if not line.startswith("$$"))
        self._values: dict[str, str] = {}
        for entry in lines.split("##$")[1:]:
            name, _, value = entry.partition("=")
            value = value.partition("\n##")[0]
            self._values[name.strip()] = re.sub(r"^\([\d ,]*\)\s*\n", "", value).strip()

    def text(self, name: str, default: str = "") -> str:
        """Return a parameter as text, without the brackets of strings."""
        return self._values.get(name, default).strip("<>")

    def numbers(self, name: str, default: tuple[float, ...] | None = None) -> list[float]:
        """Return a parameter as numbers; ``default`` if it is missing.

        Raises
        ------
        InputError : if it is missing without a default, or something else.
        """
        if name not in self._values:
            if default is None:
                raise InputError(f"{self.path} has no parameter {name}, which is needed to place the lines of k-space")
            return list(default)
        found: list[float] = []
        try:
            for word in re.findall(r"@\d+\s*\*\s*\([^)]*\)|[^\s()]+", self._values[name]):
                repeated = re.fullmatch(r"@(\d+)\s*\*\s*\((.*)\)", word)  # @3*(0) stands for 0 0 0
                found += [float(repeated[2])] * min(int(repeated[1]), _MOST) if repeated else [float(word)]
        except ValueError:
            found = []
        if not found or len(found) > _MOST or not all(abs(value) < 2**31 for value in found):
            raise InputError(
                f"{self.path}: its parameter {name} is {self._values[name][:40]!r}, and numbers are expected"
            )
        return found

    def whole(self, name: str, default: int | None = None) -> int:
        """Return the first value of a parameter as a whole number of at least one.

        Raises
        ------
        InputError : if it is missing without a default, or something else.
        """
        value = self.numbers(name, None if default is None else (default,))[0]
        if value < 1 or value != int(value) or value > 2**31:
            raise InputError(f"{self.path}: its parameter {name} is {value:g}, and a number from 1 up is expected")
        return int(value)


def open_bruker(folder: Path) -> Lines:
    """Open the folder of a scan.

    Raises
    ------
    InputError : if a file is missing or damaged, or the scan is of a kind that is not supported.
    """
    fid = folder / "fid"
    if not fid.is_file():
        other = (
            "; its rawdata.job0 is that of ParaVision 360, which is not supported" * (folder / "rawdata.job0").exists()
        )
        raise InputError(f"{folder} is no scan of Bruker, which has the files fid, acqp and method{other}")
    acqp, method = Parameters(folder / "acqp"), Parameters(folder / "method")
    kind = method.text("Method") or acqp.text("ACQ_method")
    if _UNSUPPORTED.search(kind) or method.text("PVM_EncSpectroscopy") == "Yes":
        raise InputError(
            f"{folder}: its method is {kind}, which is not supported; only Cartesian imaging without EPI is"
        )
    if method.text("EchoAcqMode") == "allEchoes":
        raise InputError(f"{folder}: its echoes were read in both directions, which is not supported")
    return Lines(folder, _scan(folder, fid, acqp, method))


def _scan(folder: Path, fid: Path, acqp: Parameters, method: Parameters) -> Scan:
    samples, coils = acqp.whole("ACQ_size") // 2, method.whole("PVM_EncNReceivers", 1)
    train, objects, repeats = acqp.whole("ACQ_phase_factor", 1), acqp.whole("NI"), acqp.whole("NR", 1)
    echoes = acqp.whole("ACQ_n_echo_images", 1)
    first = [int(step) for step in method.numbers("PVM_EncSteps1")]
    second = [int(step) for step in method.numbers("PVM_EncSteps2", (0,))]
    number = len(first) * len(second) * objects * repeats
    kind = acqp.text("GO_raw_data_format", "GO_32BIT_SGN_INT")
    if kind not in _TYPES:
        raise InputError(f"{folder}: its numbers are of type {kind[:40]}; expected is one of {', '.join(_TYPES)}")
    word = np.dtype(("<" if acqp.text("BYTORDA", "little") == "little" else ">") + _TYPES[kind])
    length = 2 * samples * coils * word.itemsize
    if acqp.text("GO_block_size", "Standard_KBlock_Format") != "continuous":
        length = -(-length // _BLOCK) * _BLOCK
    with as_input_error(fid, "file of Bruker"):
        stored = fid.stat().st_size
    if not length or stored != number * length or len(first) % train:
        raise InputError(
            f"{fid} has {stored} bytes; its parameters say {number} readouts of {length} bytes in trains of {train}; "
            f"it is not whole, or of another scan"
        )
    # the echo train is the innermost loop, though it belongs to the first phase encoding
    loops = itertools.product(
        range(repeats), range(len(second)), range(len(first) // train), range(objects), range(train)
    )
    order = np.array(list(loops))
    order_of = np.array(acqp.numbers("ACQ_obj_order", tuple(range(objects))), int)
    if sorted(order_of.tolist()) != list(range(objects)) or objects % echoes:
        raise InputError(f"{folder}: ACQ_obj_order does not number its {objects} slices and echoes")
    lines = np.zeros(number, READOUT)
    lines["repetition"], turn, part, echo = order[:, 0], order[:, 1], order[:, 2], order[:, 4]
    place = order_of[order[:, 3]]
    lines["slice"], lines["contrast"] = place // echoes, place % echoes
    step = np.array(first)[part * train + echo]
    step2 = np.array(second)[turn]
    partial = max(method.numbers("PVM_EncPft", (1.0,))[0], 1.0)
    n = 2 * round(samples * partial / 2)  # an asymmetric echo lacks its beginning
    columns = 2 * max(-int(step.min()), int(step.max()) + 1)
    depth = 1 if len(second) == 1 else 2 * max(-int(step2.min()), int(step2.max()) + 1)
    lines["column"], lines["partition"] = step + columns // 2, step2 + depth // 2
    lines["samples"], lines["coils"], lines["centre"] = samples, coils, samples - (n - n // 2)
    wide = [max(value, 1.0) for value in method.numbers("PVM_AntiAlias", (1.0, 1.0, 1.0))]
    wide += [1.0] * (3 - len(wide))
    rows, height = max(round(n / wide[0]), 1), max(round(columns / wide[1]), 1)
    view = method.numbers("PVM_Fov")
    view += [method.numbers("PVM_SliceThick", (0.0,))[0]] * (3 - len(view))
    voxel = (view[0] / rows, view[1] * wide[1] / columns, view[2] * (wide[2] if depth > 1 else 1) / depth)
    shift = _shifts(method, lines, step * 1.0, step2 * 1.0, (view[1] * wide[1], view[2] * wide[2]))
    slices = _geometries(folder, acqp, method, voxel)
    data = np.memmap(fid, np.uint8, "r").reshape(number, length)[:, : 2 * samples * coils * word.itemsize]

    def read(indices: np.ndarray) -> Iterator[np.ndarray]:
        for index in indices.tolist():
            pairs = np.ascontiguousarray(data[index]).view(word).astype(np.float32)
            yield pairs.view(np.complex64).reshape(coils, samples) * shift[index]

    return Scan(
        readouts=lines,
        samples=read,
        matrix=(n, columns, depth),
        rows=rows,
        partitions=max(round(depth / wide[2]), 1),
        header=Header(
            "scanner",
            folder.name,
            reconstruction_size=(rows, height) if height < columns else None,
            voxel_size=voxel if min(voxel) > 0 else None,
            contrast=acqp.text("ACQ_protocol_name")[:200] or None,
        ),
        geometry=lambda index: slices.get(int(lines["slice"][index])),
    )


def _shifts(
    method: Parameters, lines: np.ndarray, step: np.ndarray, step2: np.ndarray, view: tuple[float, float]
) -> np.ndarray:
    """Return the phase of each readout that moves the image to the planned offset in the phase directions.

    The scanner moves it along the readout only, by its frequency; ParaVision moves the rest when it reconstructs.
    """
    turns = np.zeros(len(lines))
    for name, steps, mm in (("PVM_EffPhase1Offset", step, view[0]), ("PVM_EffPhase2Offset", step2, view[1])):
        offsets = np.array(method.numbers(name, (0.0,)))
        if steps.any() and mm > 0:
            turns += steps * offsets[np.minimum(lines["slice"], len(offsets) - 1)] / mm
    return np.exp(-2j * np.pi * turns).astype(np.complex64)


def _geometries(
    folder: Path, acqp: Parameters, method: Parameters, voxel: tuple[float, float, float]
) -> dict[int, Geometry]:
    """Return where each slice lies; images grow against the directions of readout and phase, as ParaVision's do."""
    subject = acqp.text("ACQ_patient_pos")
    if subject not in _SUBJECT or min(voxel) <= 0:
        log.warning("%s: the subject lies %s, for which the images have no geometry", folder.name, subject or "unknown")
        return {}
    matrices = np.array(acqp.numbers("ACQ_grad_matrix", ()))
    offsets = [np.array(method.numbers(f"PVM_Eff{name}Offset", ())) for name in ("Read", "Phase1", "Slice")]
    n = min([len(matrices) // 9, *map(len, offsets)])
    if not n:
        log.warning("%s does not say where its slices lie; the images have no geometry", folder.name)
    found = {}
    for index in range(n):
        # the rows are the directions of readout, phase and slice
        directions = matrices[9 * index : 9 * index + 9].reshape(3, 3) @ _SUBJECT[subject].T
        position = np.array([offset[index] for offset in offsets]) @ directions
        readout, phase, normal = directions * [[-1], [-1], [1]] + 0.0
        vectors = [(float(v[0]), float(v[1]), float(v[2])) for v in (position, readout, phase, normal)]
        found[index] = Geometry(vectors[0], vectors[1], vectors[2], vectors[3], voxel)
    return found
