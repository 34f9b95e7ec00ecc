"""Who was scanned: the patient that a file's name gives, and a warning when one patient is in several splits."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Sequence

from spinwarp.data.source import SPLITS, Source, Volume
from spinwarp.errors import InputError
from spinwarp.files import warn_once

# words after which a patient's number or label stands; the label of BIDS may have letters
_PATIENT = re.compile(
    r"(?<![a-z])(?:sub-[a-z0-9]+|(?:sub|subj|subject|pat|patient|participant|volunteer|case|pid|id)[-_ ]?\d+)", re.I
)
# a p may stand for a patient or for Siemens' factor of acceleration, which all files of a set share
_P = re.compile(r"(?<![a-z])pt?[-_]?\d+", re.I)
# numbers after these words count slices, series or visits: they never tell two patients apart
_INNER = {
    *("slice", "sl", "s", "z", "frame", "fr", "im", "img", "image", "i", "e", "echo", "te", "b", "bval", "t", "dyn"),
    *("series", "ser", "se", "ses", "session", "visit", "run", "acq", "mr", "scan"),
}
# what names a contrast, a plane or a field strength, and therefore no patient
_KIND = re.compile(
    r"(?<![a-z0-9])(?:t[12](?:w|ce|c|gd|post|pre)?|t2star|flair|pd|pdw|dwi|adc|swi|tof|mra|gd|pre|post|\d+(?:[.p]\d+)?t|"
    r"ax|axial|tra|cor|coronal|sag|sagittal)(?![a-z0-9])",
    re.I,
)


def named_patient(name: str) -> str | None:
    """Return the part of a name that says which patient it is, such as ``sub-003`` or ``patient12``."""
    found = _PATIENT.search(name)
    return found[0] if found else None


def patients_in(names: Sequence[str]) -> list[str | None]:
    """Return the patient of each file of one folder, as far as the names of all of them tell.

    A word such as ``sub-`` or ``patient`` tells. Where none does, of two numbers that differ between files the first
    is the patient, if several files share it: ``p01_0001`` is slice 1 of ``p01``. A single number counts files. What
    stands after ``series``, ``slice`` and the like is no patient.

    Parameters
    ----------
    names : without suffixes.
    """
    found = [named_patient(name) for name in names]
    short = [_P.search(_plain(name)) for name in names]
    if len({match[0] for match in short if match}) > 1:
        found = [one or (match[0] if match else None) for one, match in zip(found, short, strict=True)]
    if not any(found):
        found = _by_first_number(names)
    same: dict[str, str] = {}  # P1 and p01 are one patient, called as the first file has it
    return [None if one is None else same.setdefault(_normal(one), one) for one in found]


def file_numbers(names: Sequence[str]) -> list[int | None]:
    """Return the number of each file: the one that differs between files; of several, or none, the longest."""
    rows = [_numbers(name) for name in names]
    varying = _varying(rows)
    only = varying[0] if len(varying) == 1 else None
    numbers: list[int | None] = []
    for row in rows:
        # max keeps the first of equals
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
    """Return what a name says beside one of its numbers, the contrast and the plane."""
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
    """Return what a checkpoint keeps of a patient: who has it can recognise them, but not read their name."""
    return hashlib.sha256(f"{dataset}/{patient}".encode()).hexdigest()[:16]


def warn_of_shared_patients(source: Source, splits: Sequence[str] = SPLITS) -> None:
    """Say in the log, once, which patients are in two splits of a set; unknown patients are left out.

    A split that cannot be listed is left out too: a set need not have all of them. Volumes that validation and test
    share are no mistake, since the official sets have no other test volumes with a reference.
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
                f"{one} and {other} of {source.name} share patients ({len(shared)}: {names}): figures on {other} are "
                f"not those of new patients"
            )
