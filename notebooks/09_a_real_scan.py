# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A scan of a real scanner
#
# From the raw file of a scanner to a NIfTI volume that lies in the right place, and to a report page to scroll through:
# this is what you do with a scan of your own.
#
# **The scan here is simulated.** Raw data of people may not be shipped, so the first cell writes a file as a scanner
# would: MRD, the open format to which the vendors' formats can be converted, with tilted slices and every fourth
# column. From there on nothing knows that it is a phantom. Replace the file by yours: Siemens twix, Bruker, MRD, BART,
# MATLAB, the fastMRI layout and `.npy` are read in the same way.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 72}
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import nibabel
import numpy as np
import torch
from numpy.random import RandomState
from scipy.spatial.transform import Rotation

from spinwarp.acquisition import Acquisition, Header
from spinwarp.data.phantom.anatomy import head_volume, pixel_size
from spinwarp.data.raw import open_measurement
from spinwarp.data.raw.mrd_writer import write_mrd
from spinwarp.data.simulation import acquire, loop_coil_maps, smooth_phase
from spinwarp.figures import panel
from spinwarp.geometry import Geometry
from spinwarp.masks import EquispacedMask
from spinwarp.recon import ZeroFilled
from spinwarp.report import write_report

folder = Path(tempfile.mkdtemp())
n, shape, rng = 5, (128, 112), RandomState(5)
heads, contrast = head_volume(n, shape, rng)
maps = loop_coil_maps(8, shape, rng)
noise = float(heads[heads > 0.1].mean()) / 40
kspace = torch.from_numpy(acquire(heads * np.exp(1j * smooth_phase(shape, rng)), maps, noise, rng))
mask = EquispacedMask([0.1], [4])(shape, RandomState(0))[0].view(1, 1, 1, -1)
voxel = (pixel_size(shape), pixel_size(shape), 5.0)  # mm
turn = Rotation.from_euler("xyz", [20, -8, 5], degrees=True).as_matrix()  # nobody lies straight in a scanner
readout, phase, normal = turn @ [0, 1, 0], turn @ [1, 0, 0], turn @ [0, 0, 1]
slices = []
for i in range(n):
    position = np.array([3.0, -12.0, 40.0]) + (i - n // 2) * voxel[2] * normal
    place = Geometry(tuple(position), tuple(readout), tuple(phase), tuple(normal), voxel)
    header = Header("unknown", "scan.h5", voxel_size=voxel, contrast=contrast, geometry=place)
    slices.append(Acquisition(kspace[i : i + 1] * mask, mask, headers=(header,)))
write_mrd(folder / "scan.h5", slices, n)

# %% [markdown]
# ## What a raw file holds
# One record for each readout: a header with counters (which column, which slice), position and directions, and the
# complex samples of all coils. And one text in XML about the whole scan.

# %%
with h5py.File(folder / "scan.h5") as file:
    records = file["dataset/data"][:]
    xml = file["dataset/xml"][0].decode()
columns = np.array([int(record["head"]["idx"]["kspace_encode_step_1"]) for record in records])
counters = np.array([int(record["head"]["idx"]["slice"]) for record in records])
first = records[0]["head"]
print(f"{len(records)} readouts of {first['number_of_samples']} samples and {first['active_channels']} coils")
print(xml[xml.index("<encodedSpace>") : xml.index("</encodedSpace>")])
assert len(records) == n * int(mask.sum()) and sorted(set(counters)) == list(range(n))
figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
axes.plot(columns, ".", ms=3)
axes.set(
    xlabel="readout, in the order of the file",
    ylabel="column of k-space",
    title="a quarter of the columns, slice after slice",
)
plt.show()

# %% [markdown]
# ## Open it
# `open_measurement` tells the format by the content. It sorts the readouts into k-space, would remove readout
# oversampling, and reads where the slice lies. What it returns is an `Acquisition`: all that any method may see.

# %%
scan = open_measurement(folder / "scan.h5")
acquisition = scan.read(2)
header = acquisition.headers[0]
print(f"{scan.n_slices} slices, k-space {tuple(acquisition.kspace.shape)}, R = {float(acquisition.acceleration()):.2f}")
print(f"voxels of {header.voxel_size[0]:.2f} x {header.voxel_size[1]:.2f} x {header.voxel_size[2]:.1f} mm")
assert torch.equal(acquisition.mask, mask) and torch.allclose(acquisition.kspace, slices[2].kspace)
assert np.allclose(header.geometry.position, slices[2].headers[0].geometry.position, atol=1e-3)
log = acquisition.kspace[0, 0].abs().clamp_min(1e-3 * float(acquisition.kspace.abs().max())).log10()
zero_filled = ZeroFilled()(acquisition).image[0].abs()
log = log - log.min()
panel(
    [log, zero_filled * (log.quantile(0.998) / zero_filled.quantile(0.998))],
    ["k-space of one coil (log)", "zero-filled"],
    columns=2,
)

# %% [markdown]
# ## Reconstruct
# One command. `-m` runs several methods. `recon=pretrained` is the network for heads that comes with spinwarp.

# %%
command = [
    "-m", "input=scan.h5", "recon=zero_filled,tv,pretrained", "format=[h5,nifti]", "hydra.sweep.dir=results",
]  # fmt: skip
program = Path("../reconstruct.py").resolve()
done = subprocess.run([sys.executable, program, *command], cwd=folder, capture_output=True, text=True, check=False)
assert done.returncode == 0, done.stderr
files = sorted(
    path.relative_to(folder) for path in folder.glob("results/*/scan*") if path.suffix in (".h5", ".gz", ".png")
)
print("\n".join(map(str, files)))

# %% [markdown]
# ## The volume lies where the head lay
# The NIfTI file says for each voxel where it is in the patient, in millimetres. Viewers use it to lay scans over each
# other. The central voxel must be where the scanner put it. Scanners count to the left and to the back (LPS), NIfTI
# counts to the right and to the front (RAS), so the first two signs change.

# %%
volumes = {
    name: nibabel.load(folder / f"results/{i}_{name}/scan.nii.gz")
    for i, name in enumerate(("zero_filled", "tv", "pretrained"))
}
volume = volumes["pretrained"]
central = volume.affine @ [shape[1] // 2, shape[0] // 2, n // 2, 1]
print(
    "axes point to",
    "".join(nibabel.aff2axcodes(volume.affine)),
    "- voxels",
    np.round(volume.header.get_zooms(), 2),
    "mm",
)
assert np.allclose(central[:3], [-3.0, 12.0, 40.0], atol=0.01)
assert np.allclose(volume.header.get_zooms(), [voxel[1], voxel[0], voxel[2]], atol=1e-3)
images = volume.get_fdata().transpose(2, 1, 0)  # NIfTI stores columns first
panel(images, [f"slice {i + 1}" for i in range(n)], columns=5)

# %% [markdown]
# Seen from the side, the slices are tilted, as the scanner wrote them. The numbers come from the NIfTI file alone.

# %%
figure, axes = plt.subplots(figsize=(4, 3.4), layout="constrained")
for i in range(n):
    ends = np.array([volume.affine @ [shape[1] // 2, row, i, 1] for row in (0, shape[0] - 1)])
    axes.plot(ends[:, 1], ends[:, 2], "-", label=f"slice {i + 1}")
axes.plot(central[1], central[2], "ko", ms=4)
axes.set(xlabel="to the front / mm", ylabel="to the head / mm", aspect="equal")
axes.legend(fontsize=7)
tilt = np.degrees(np.arctan2(*(ends[1] - ends[0])[[2, 1]]))
assert 15 < min(tilt % 180, -tilt % 180) < 25  # twenty degrees about the axis from left to right
plt.show()

# %% [markdown]
# ## Compare
# With a real scan there is no truth, and one can only look. Here there is one.

# %%
truth = heads[2]
shown = {name: v.get_fdata().transpose(2, 1, 0)[2] for name, v in volumes.items()}
error = {name: float(np.sqrt(np.mean((image - truth) ** 2)) / truth.max()) for name, image in shown.items()}
decibels = {name: -20 * np.log10(e) for name, e in error.items()}
assert decibels["pretrained"] > decibels["zero_filled"] + 5 and decibels["tv"] > decibels["zero_filled"] + 5
panel([truth, *shown.values()], ["truth", *(f"{name}: {db:.1f} dB" for name, db in decibels.items())], columns=4)

# %% [markdown]
# ## The report
# A page for a person who reads images: all slices to scroll, methods side by side and flickering, window by dragging,
# linked zoom. It is one file, needs no network, and opens in any browser. On the command line: `python -m
# spinwarp.report results/* --out report.html`.

# %%
page = write_report(sorted((folder / "results").glob("*_*")), folder / "report.html")
text = page.read_text()
print(f"{page.name}: {page.stat().st_size / 1e6:.1f} MB")
assert 'src="http' not in text and 'href="http' not in text  # nothing is loaded from elsewhere
assert all(name in text for name in ("zero_filled", "tv", "pretrained"))

# %% [markdown]
# On your own scan the line is
#
# ``` python reconstruct.py input=meas.dat recon=pretrained format=nifti,dicom report=true ```
#
# for the images with the report beside them, `mask=equispaced_4x` to leave out columns of a complete scan, and
# `recon=tv` or any other method. Nothing here is for diagnosis.
