"""The problem of ``classical.py``, solved by each library."""

import os
from typing import Any, Protocol

import numpy as np
from classical_problem import Watch

Data = dict[str, np.ndarray]
WAVELET = "db2"  # of the objectives; the longest of Daubechies' that BART has


class Library(Protocol):
    """One library with a problem: image ``(h, w)``, maps and kspace ``(coil, h, w)``, mask ``(w,)``, n_acs."""

    def __init__(self, data: Data) -> None: ...

    def solve(self, task: str, watch: Watch, weight: float) -> None:
        """Start the watch and pass it every iterate of ``tv`` or ``wavelet``, or the result of ``cg``."""

    def calibrate(self) -> np.ndarray:
        """Return ESPIRiT maps of the fully sampled centre, not cropped."""

    def objective(self, task: str, image: np.ndarray, weight: float) -> float:
        """Return 1/2 |A x - y|^2 + weight R(x), R the anisotropic periodic TV or l1 of unshifted periodic wavelets."""


class Ours:
    """Spinwarp: isotropic TV by ADMM, wavelets with shifts by FISTA; ``fixed`` takes the terms of ``objective``."""

    def __init__(self, data: Data) -> None:
        import torch

        from spinwarp.acquisition import Acquisition
        from spinwarp.operators import sense

        torch.set_grad_enabled(False)
        tensors = {key: torch.from_numpy(value)[None] for key, value in data.items()}
        mask = tensors["mask"][:, None, None]
        self.acquisition = Acquisition(tensors["kspace"], mask, maps=tensors["maps"], n_acs=tensors["n_acs"])
        self.operator = sense(self.acquisition)

    def solve(self, task: str, watch: Watch, weight: float, wavelet: str = WAVELET, fixed: bool = False) -> None:
        """Run a solver."""
        from spinwarp.recon.cg_sense import cg_sense
        from spinwarp.recon.l1_wavelet import l1_wavelet
        from spinwarp.recon.tv import total_variation

        problem = (self.operator, self.acquisition.kspace, weight)
        run: Any = {"iterations": watch.iterations, "trace": lambda _, x: watch(x)}
        watch.start()
        if task == "cg":
            watch(cg_sense(*problem, iterations=watch.iterations))
        elif task == "tv":
            total_variation(*problem, anisotropic=fixed, periodic=fixed, **run)
        else:
            l1_wavelet(*problem, name=wavelet, shifts=not fixed, **run)

    def objective(self, task: str, image: np.ndarray, weight: float) -> float:
        """Evaluate with the operators of this package."""
        import torch

        from spinwarp.operators import finite_difference, wavelet

        x = torch.from_numpy(image)[None]
        transform = finite_difference(periodic=True) if task == "tv" else wavelet(image.shape, WAVELET)
        residual = self.operator(x) - self.acquisition.kspace
        return float(residual.abs().square().sum() / 2 + weight * transform(x).abs().sum())

    def calibrate(self) -> np.ndarray:
        """Estimate the maps."""
        from spinwarp.coils.espirit import espirit_maps

        a = self.acquisition
        return np.asarray(espirit_maps(a.kspace, a.mask, a.n_acs, calibration=int(a.n_acs[0]), crop=0.0)[0])


class Sigpy:
    """sigpy by its applications: anisotropic periodic TV by PDHG, wavelets padded with zeros by FISTA."""

    def __init__(self, data: Data) -> None:
        from sigpy.mri import app

        self.apps, self.data = app, data

    def solve(self, task: str, watch: Watch, weight: float, **options: Any) -> None:
        """Run an application."""
        watch.start()
        app = self._app(task, weight, max_iter=watch.iterations, **options)
        if task == "cg":
            watch(app.run())
            return
        while True:
            app.alg.update()
            watch(app.x)

    def objective(self, task: str, image: np.ndarray, weight: float) -> float:
        """Let the application evaluate."""
        app = self._app(task, weight, fixed=True, max_power_iter=1)
        app.x[...] = image
        return float(app.objective())

    def calibrate(self) -> np.ndarray:
        """Estimate the maps."""
        width = int(self.data["n_acs"])
        return self.apps.EspiritCalib(self.data["kspace"], calib_width=width, crop=0, show_pbar=False).run()

    def _app(self, task: str, weight: float, wavelet: str = WAVELET, fixed: bool = False, **options: Any) -> Any:
        problem = (self.data["kspace"], self.data["maps"], weight)
        if task == "cg":
            return self.apps.SenseRecon(*problem, show_pbar=False, **options)
        if task == "tv":
            return self.apps.TotalVariationRecon(*problem, show_pbar=False, **options)
        if not fixed:
            return self.apps.L1WaveletRecon(*problem, wave_name=wavelet, show_pbar=False, **options)
        return self._periodic_wavelets(weight, **options)

    def _periodic_wavelets(self, weight: float, **options: Any) -> Any:
        """Build our problem from sigpy's parts, with PyWavelets' periodic wavelets: sigpy's are not orthogonal."""
        import pywt
        import sigpy

        shape = self.data["image"].shape
        _, slices = pywt.coeffs_to_array(pywt.wavedec2(np.zeros(shape), WAVELET, "periodization"))

        class Wavelets(sigpy.linop.Linop):
            def _apply(self, x: np.ndarray) -> np.ndarray:
                return pywt.coeffs_to_array(pywt.wavedec2(x, WAVELET, "periodization"))[0]

            def _adjoint_linop(self) -> Any:
                return Inverse(shape, shape)

        class Inverse(sigpy.linop.Linop):
            def _apply(self, c: np.ndarray) -> np.ndarray:
                parts = pywt.array_to_coeffs(c, slices, "wavedec2")
                return pywt.waverec2(parts, WAVELET, "periodization")

            def _adjoint_linop(self) -> Any:
                return Wavelets(shape, shape)

        transform = Wavelets(shape, shape)
        mask = np.broadcast_to(self.data["mask"].astype(np.float32), shape)
        return sigpy.app.LinearLeastSquares(
            sigpy.mri.linop.Sense(self.data["maps"], weights=mask),
            self.data["kspace"],
            proxg=sigpy.prox.UnitaryTransform(sigpy.prox.L1Reg(shape, weight), transform),
            g=lambda x: weight * np.abs(transform(x)).sum().item(),
            show_pbar=False,
            **options,
        )


class Bartorch:
    """BART by bartorch: isotropic TV by ADMM, wavelets with random shifts by FISTA.

    Its solvers run step by step to show every iterate; the result is that of BART's own loop.
    """

    def __init__(self, data: Data) -> None:
        import bartorch
        import torch
        from bartorch import linop
        from bartorch.linop._basic import Sampling  # bartorch.apps.pics builds its encoding from it

        bartorch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.data = data
        shape = data["image"].shape
        encoding = linop.CartesianSense(torch.from_numpy(data["maps"])[:, None], (1, *shape), modulated=True)
        mask = torch.from_numpy(data["mask"]).float().expand(shape).contiguous()
        self.operator = Sampling(mask, encoding.oshape) @ encoding
        kspace = bartorch.fftmod(torch.from_numpy(data["kspace"])[:, None], axes=(-1, -2, -3), inverse=True)
        self.kspace = kspace.reshape(self.operator.oshape)

    def solve(self, task: str, watch: Watch, weight: float, wavelet: str = WAVELET, **options: Any) -> None:
        """Run a solver."""
        from bartorch import optim, priors

        family = {"db2": "dau2"}.get(wavelet, wavelet)

        if task == "cg":
            watch.start()
            watch(optim.CG(weight, maxiter=watch.iterations)(self.kspace, self.operator))
        elif task == "tv":
            self._step(optim.ADMM(priors.TotalVariation((-1, -2), weight), **options), watch)
        else:
            self._step(optim.FISTA(priors.Wavelet((-1, -2), weight, family=family), **options), watch)

    def calibrate(self) -> np.ndarray:
        """Estimate the maps."""
        import torch
        from bartorch import tools

        kspace, width = torch.from_numpy(self.data["kspace"]), int(self.data["n_acs"])
        # its threshold applies to squared singular values; the others take 0.02 of plain ones
        return tools.ecalib(kspace, maps=1, calib_size=width, threshold=0.02**2, crop=0.0).numpy()

    def _step(self, solver: Any, watch: Watch) -> None:
        watch.start()
        block = solver._block()
        state = block.start(self.kspace, self.operator)
        while True:
            state = block(state, self.operator)
            watch(block.output(state, self.operator))


class Mrpro:
    """mrpro: conjugate gradients."""

    def __init__(self, data: Data) -> None:
        import torch
        from mrpro.data import KTrajectory, SpatialDimension
        from mrpro.operators import FourierOp, SensitivityOp

        h, w = data["image"].shape
        columns = torch.from_numpy(data["mask"]).nonzero()[:, 0]
        ky, kx = (columns - w // 2).float()[:, None], (torch.arange(h) - h // 2).float()
        kz = torch.zeros(1, 1, 1, 1, 1)
        size = SpatialDimension(1, w, h)
        fourier = FourierOp(size, size, KTrajectory(kz, ky[None, None, None], kx.view(1, 1, 1, 1, -1)))
        # mrpro encodes the phase along y
        maps, kspace = (torch.from_numpy(data[key]).mT[None, :, None].contiguous() for key in ("maps", "kspace"))
        self.operator = fourier @ SensitivityOp(maps)
        self.kspace = kspace[..., columns, :]

    def solve(self, task: str, watch: Watch, weight: float) -> None:  # noqa: ARG002
        """Run conjugate gradients."""
        from mrpro.algorithms.optimizers import cg
        from mrpro.operators import IdentityOp

        watch.start()
        (rhs,) = self.operator.H(self.kspace)
        normal = self.operator.gram + weight * IdentityOp().gram
        (x,) = cg(normal, rhs, max_iterations=watch.iterations, tolerance=0)
        watch(x[0, 0, 0].mT)


LIBRARIES: dict[str, Any] = {"ours": Ours, "sigpy": Sigpy, "bartorch": Bartorch, "mrpro": Mrpro}
