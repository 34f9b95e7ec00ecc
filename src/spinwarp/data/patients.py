"""Patients: found from file names, and a warning if one patient is in several splits."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Sequence

from spinwarp.data.source import SPLITS, Source, Volume
from spinwarp.errors import InputError
from spinwarp.files import warn_once

# words that precede a patient's number or label; labels in BIDS may have letters
_PATIENT = re.compile(
    r"(?<![a-z])(?:sub-[a-z0-9]+|(?:sub|subj|subject|pat|patient|participant|volunteer|case|pid|id)[-_ ]?\d+)", re.I
)
# p may mean patient, or the acceleration factor on Siemens scanners, which all files of a data set share
_P = re.compile(r"(?<![a-z])pt?[-_]?\d+", re.I)
# numbers after these words count slices, series or visits, and never patients
_INNER = {
    *("slice", "sl", "s", "z", "frame", "fr", "im", "img", "image", "i", "e", "echo", "te", "b", "bval", "t", "dyn"),
    *("series", "ser", "se", "ses", "session", "visit", "run", "acq", "mr", "scan"),
}
# words that name a contrast, a plane or a field strength, and never a patient
_KIND = re.compile(
    r"(?<![a-z0-9])(?:t[12](?:w|ce|c|gd|post|pre)?|t2star|flair|pd|pdw|dwi|adc|swi|tof|mra|gd|pre|post|\d+(?:[.p]\d+)?t|"
    r"ax|axial|tra|cor|coronal|sag|sagittal)(?![a-z0-9])",
    re.I,
)


def named_patient(name: str) -> str | None:
    """Return the part of a name that identifies the patient, such as ``sub-003`` or ``patient12``."""
    found = _PATIENT.search(name)
    return found[0] if found else None


def patients_in(names: Sequence[str]) -> list[str | None]:
    """Return the patient of each file of one folder, guessed from all names together; None if unknown.

    A word such as ``sub-`` or ``patient`` identifies the patient. Without one, if two numbers differ between files and
    several files share the first, the first is the patient: ``p01_0001`` is slice 1 of ``p01``. A single number counts
    files. A number after ``series``, ``slice`` and the like is never a patient.

    Parameters
    ----------
    names : file names without suffixes.
    """
    found = [named_patient(name) for name in names]
    short = [_P.search(_plain(name)) for name in names]
    if len({match[0] for match in short if match}) > 1:
        found = [one or (match[0] if match else None) for one, match in zip(found, short, strict=True)]
    if not any(found):
        found = _by_first_number(names)
    same: dict[str, str] = {}  # P1 and p01 are one patient, named as in the first file
    return [None if one is None else same.setdefault(_normal(one), one) for one in found]


def file_numbers(names: Sequence[str]) -> list[int | None]:
    """Return the number of each file: the one that differs between files; the longest if several or none do."""
    rows = [_numbers(name) for name in names]
    varying = _varying(rows)
    only = varying[0] if len(varying) == 1 else None
    numbers: list[int | None] = []
    for row in rows:
        # of equally long ones, max returns the first
        longest = max((n[0] for n in row), key=len, default=None)
        number = longest if only is None or only >= len(row) else row[only][0]
        numbers.append(None if number is None else int(number))
    return numbers


def _by_first_number(names: Sequence[str]) -> list[str | None]:
    rows = [_numbers(name) for name in names]
    varying = _varying(rows)
    found: list[str | None] = []
    for name, row in zip(names, rows, strict=True):
        mine = [row[i] for i in varying if i < len(row)]
        before = re.search(r"([a-z]*)[^a-z0-9]*$", _plain(name)[: mine[0].start()], re.I) if len(mine) > 1 else None
        found.append(None if before is None or before[1].lower() in _INNER else _plain(name)[: mine[0].end()])
    shared = Counter(_normal(one) for one in found if one is not None)
    return found if max(shared.values(), default=0) > 1 else [None] * len(names)


def without_number(name: str, number: int | None) -> str:
    """Return a name without one of its numbers and without contrast and plane."""
    words = re.split(r"(\d+)", _plain(name))
    rest = [word for word in words if not (word.isdigit() and int(word) == number)]
    return re.sub(r"[^a-z0-9]+", " ", "".join(rest).lower()).strip()


def _numbers(name: str) -> list[re.Match[str]]:
    return list(re.finditer(r"\d+", _plain(name)))


def _varying(rows: list[list[re.Match[str]]]) -> list[int]:
    """Return which numbers, counted from the left, differ between files."""
    columns = itertools.zip_longest(*([int(n[0]) for n in row] for row in rows))
    return [i for i, column in enumerate(columns) if len({v for v in column if v is not None}) > 1]


def _plain(name: str) -> str:
    return _KIND.sub("", name)


def _normal(name: str) -> str:
    return re.sub(r"0+(\d)", r"\1", re.sub(r"[^a-z0-9]", "", name.lower()))


def digest(dataset: str, patient: str) -> str:
    """Return the hash of a patient that checkpoints store; it recognises a patient without revealing the name."""
    return hashlib.sha256(f"{dataset}/{patient}".encode()).hexdigest()[:16]


def warn_of_shared_patients(source: Source, splits: Sequence[str] = SPLITS) -> None:
    """Log, once, which patients are in two splits of a data set; unknown patients are left out.

    A split that cannot be listed is skipped, since a data set need not have all of them. Validation and test may share
    volumes: the official sets have no other test volumes with a reference.
    """
    found: dict[str, list[Volume]] = {}
    for split in splits:
        try:
            found[split] = source.volumes(split)
        except InputError:
            continue
    for one, other in itertools.combinations(found, 2):
        same = {v.path for v in found[one]} & {v.path for v in found[other]} if one == "val" else set()
        first, second = ({v.patient for v in found[s] if v.path not in same} - {None} for s in (one, other))
        if shared := sorted(str(patient) for patient in first & second):
            names = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
            warn_once(
                f"{one} and {other} of {source.name} share patients ({len(shared)}: {names}): results on {other} are "
                f"not results on new patients"
            )
