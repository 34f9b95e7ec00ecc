"""Relaxation of the tissues of the head and the signal equations of the common sequences.

Relaxation times are for 3 T and rounded; if reported values differ, they are from the middle. Brain and CSF follow
Wansapura et al., J Magn Reson Imaging 9:531, 1999; muscle, blood, grey and white matter Stanisz et al., Magn Reson Med
54:507, 2005; fat and marrow de Bazelaire et al., Radiology 230:652, 2004. Skin, bone, lesion and edema are set by hand:
bone has almost no signal at these echo times, and pathology lies between its tissue and water. Blood has a short T2 to
stand for the signal lost to flow.
"""

import numpy as np

TISSUES = {  # proton density (CSF = 1), T1 in ms, T2 in ms
    "skin": (0.60, 1000.0, 30.0),
    "fat": (0.95, 380.0, 70.0),
    "muscle": (0.75, 1400.0, 40.0),
    "bone": (0.08, 1000.0, 5.0),
    "marrow": (0.60, 550.0, 55.0),
    "csf": (1.00, 4200.0, 1500.0),
    "grey": (0.83, 1450.0, 105.0),
    "white": (0.70, 900.0, 75.0),
    "deep_grey": (0.80, 1250.0, 82.0),
    "pallidum": (0.76, 1080.0, 64.0),
    "blood": (0.85, 1900.0, 15.0),
    "lesion": (0.92, 2200.0, 180.0),
    "edema": (0.86, 1700.0, 140.0),
}


def spin_echo(pd: float, t1: float, t2: float, te: float, tr: float) -> float:
    """Return the signal of a spin echo: ``pd (1 - exp(-tr / t1)) exp(-te / t2)``; all times in ms."""
    return float(pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2))


def gradient_echo(pd: float, t1: float, t2: float, te: float, tr: float, flip: float) -> float:
    """Return the steady state of a spoiled gradient echo (Ernst); times in ms, ``flip`` in radians, ``t2`` is T2*."""
    e1 = np.exp(-tr / t1)
    return float(pd * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1) * np.exp(-te / t2))


def flair(pd: float, t1: float, t2: float, te: float, tr: float, ti: float) -> float:
    """Return the magnitude of an inversion-recovery spin echo with inversion time ``ti``; all times in ms.

    ``pd |1 - 2 exp(-ti / t1) + exp(-tr / t1)| exp(-te / t2)``, for an echo time much shorter than ``tr``. A
    tissue is nulled at ``ti = t1 ln(2 / (1 + exp(-tr / t1)))``.
    """
    return float(pd * abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2))


def draw_signals(rng: np.random.RandomState) -> tuple[dict[str, float], str]:
    """Draw a pulse sequence and its parameters; return the signal of each tissue and the sequence's name."""
    values = {name: _vary(row, rng) for name, row in TISSUES.items()}
    contrast = ("T1", "T1GRE", "T2", "PD", "FLAIR")[rng.choice(5, p=(0.2, 0.2, 0.25, 0.1, 0.25))]
    if contrast == "T1":
        te, tr = rng.uniform(8, 14), rng.uniform(450, 750)
        return {n: spin_echo(*v, te, tr) for n, v in values.items()}, contrast
    if contrast == "T1GRE":
        te, tr, flip = rng.uniform(2.5, 5), rng.uniform(150, 280), np.deg2rad(rng.uniform(60, 85))
        return {n: gradient_echo(*v, te, tr, flip) for n, v in values.items()}, contrast
    if contrast == "FLAIR":
        te, tr, t1 = rng.uniform(90, 125), rng.uniform(8000, 11000), values["csf"][1]
        ti = t1 * np.log(2 / (1 + np.exp(-tr / t1))) * rng.uniform(0.96, 1.03)
        signal = {n: flair(*v, te, tr, ti) for n, v in values.items()}
        if rng.uniform() < 0.6:  # usually acquired with fat saturation
            signal.update(fat=0.15 * signal["fat"], marrow=0.3 * signal["marrow"])
        return signal, contrast
    te = rng.uniform(80, 115) if contrast == "T2" else rng.uniform(12, 25)
    tr = rng.uniform(3500, 6000) if contrast == "T2" else rng.uniform(2500, 4000)
    return {n: spin_echo(*v, te, tr) for n, v in values.items()}, contrast


def _vary(row: tuple[float, float, float], rng: np.random.RandomState) -> tuple[float, float, float]:
    pd, t1, t2 = np.array(row) * np.exp(0.025 * rng.randn(3))
    return float(pd), float(t1), float(t2)
