"""A scan of seven lines: small enough to go through all masks and all splits, for losses of linear networks.

The losses are quadratic in the noise, so any noise of the same covariance has the same expectation: here one of a few
vectors, each as likely.
"""

import itertools
from dataclasses import replace

import numpy as np
import torch

from spinwarp.acquisition import Acquisition, Split
from spinwarp.data.split import Splitter
from spinwarp.masks import RandomMask
from spinwarp.training.self_supervised import given_and_compared

W, CENTER, SIGMA, ALPHA = 7, 2, 1.0, 0.8
LINES = RandomMask([2 / 7], [2])
SCANS = torch.from_numpy(np.random.RandomState(0).normal(size=(3, W, 2)) / (1 + np.abs(np.arange(W) - W // 2))[:, None])
SCANS = torch.view_as_complex(SCANS.cumsum(1).contiguous())  # lines tell of their neighbours


def cases(splitter: Splitter, noise: float, alpha: float | None) -> dict[str, np.ndarray]:
    """Every mask, split, scan and noise, with its probability: what the network gets and what the loss sees."""
    p = LINES.density((1, W)).double()
    chance = splitter.chance(p[None].float() if splitter.weighted else torch.ones(1, W), 0.4)
    held_by_chance = torch.from_numpy(chance)[0]
    masks, helds, chances = [], [], []
    for states in itertools.product(*[("input", "held", "missing")] * W):
        each = {"input": p * (1 - held_by_chance), "held": p * held_by_chance, "missing": 1 - p}
        probability = float(torch.stack([each[state][j] for j, state in enumerate(states)]).prod())
        if probability > 0:
            masks.append([state != "missing" for state in states])
            helds.append([state == "held" for state in states])
            chances.append(probability)
    mask, held = torch.tensor(masks), torch.tensor(helds)
    sampling = p.float() if splitter.weighted else None
    weight = torch.stack([
        splitter.weight(m[None], h[None], chance, sampling) for m, h in zip(mask, held, strict=True)
    ])  # fmt: skip
    # root of W in one line at a time, of both signs: mean zero, covariance one
    vectors = W**0.5 * torch.cat([torch.eye(W), -torch.eye(W)]).to(torch.complex128)
    scan_noise = noise * vectors if noise else torch.zeros(1, W, dtype=torch.complex128)
    added = noise * vectors if alpha else torch.zeros(1, W, dtype=torch.complex128)
    n, e, s, c = (
        x.flatten()
        for x in torch.meshgrid(*(torch.arange(len(x)) for x in (scan_noise, added, SCANS, mask)), indexing="ij")
    )
    whole = SCANS[s] + scan_noise[n]
    measured = mask[c][:, None, None]
    kept = (mask & ~held)[c][:, None, None]
    split = Split(kept, weight[c][:, None])
    if alpha is not None:
        split = replace(
            split, noise=added[e][:, None, None] * kept, alpha=torch.full((len(c),), alpha, dtype=torch.float64)
        )
    given, compared = given_and_compared(Acquisition(whole[:, None, None] * measured, measured), split)
    arrays = {
        "given": given.kspace, "kept": kept, "compared": compared, "weight": split.weight, "whole": whole,
        "clean": SCANS[s], "probability": torch.tensor(chances, dtype=torch.float64)[c],
    }  # fmt: skip
    return {name: array.reshape(len(c), -1).numpy() for name, array in arrays.items()}


def features(case: dict[str, np.ndarray], consistent: bool) -> tuple[np.ndarray, np.ndarray]:
    """The linear network: a filter over five neighbouring lines, and with data consistency only where none is given.

    Returns what it does without parameters ``(n, line)``, and what each of its parameters adds ``(n, line, 5)``.
    """
    y, kept = case["given"], case["kept"]
    padded = np.pad(y, ((0, 0), (2, 2)))
    shifted = np.stack([padded[:, d : d + W] for d in range(5)], axis=-1)
    if not consistent:
        return np.zeros_like(y), shifted
    return np.where(kept, y, 0), np.where(kept[..., None], 0, shifted)[..., [0, 1, 3, 4]]


def minimiser(case: dict[str, np.ndarray], target: np.ndarray, weight: np.ndarray, consistent: bool) -> np.ndarray:
    """The parameters of the least expected weighted squared error, by the normal equations."""
    fixed, x = features(case, consistent)
    w = case["probability"] * weight.astype(float) ** 2
    a = np.einsum("nj,njd,nje->de", w, x.conj(), x)
    return np.linalg.solve(a, np.einsum("nj,njd,nj->d", w, x.conj(), target - fixed))


def risk(case: dict[str, np.ndarray], parameters: np.ndarray, consistent: bool) -> float:
    """Expected squared error against the scan without noise."""
    fixed, x = features(case, consistent)
    return float((case["probability"] * np.abs(fixed + x @ parameters - case["clean"]) ** 2).sum())
