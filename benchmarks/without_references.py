"""Training without references against supervised training: the same network, scans and steps.

``python benchmarks/without_references.py HEADS OUT.csv [--cases supervised ssdu ...] [--snr 50 10] [--seeds 0 1]``

``HEADS`` is a folder of magnitude volumes as ``data=simulated_heads`` reads them, one folder a subject. Every step
draws a new scan of a training subject. All cases start from the same denoiser, ``pretrained:heads_score``. PSNR is the
mean over slices, of magnitudes against images without noise, on the validation subjects, or with ``--split test`` on
the test subjects; each has its own fixed scan. An SNR of 50 is noise of about 1 % of the brightest pixel, 10 of about
5 %.
"""

import argparse
import csv
import logging
import time
import warnings
from pathlib import Path

import lightning
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from spinwarp.acquisition import center_crop
from spinwarp.cli.app import conf_folder
from spinwarp.cli.train import build_data
from spinwarp.metrics import psnr
from spinwarp.recon import ZeroFilled
from spinwarp.recon.tv import TotalVariation
from spinwarp.training.callbacks import WarmStart

DATA = [
    "model=unrolled", "model.net.smooth_phase=false", "model.net.regulariser.periodic=false", "data=simulated_heads",
    "mask=random_4x", "data.source.coils=[4]", "data.source.matrices=[[128,128]]", "data.source.phantoms=0",
    "data.source.n_val=8", "data.source.n_test=24",
    "data.augment={_target_:spinwarp.data.row_block.RowBlock,rows:32}",
]  # fmt: skip
SPLIT = [
    "model._target_=spinwarp.training.SelfSupervisedModule", "data.supervision=split", "~model.loss.ssim_weight",
    "data.maps=espirit", "data.split.center=10",
]  # fmt: skip
L1L2, SQUARED = (f"model.loss._target_=spinwarp.losses.{name}" for name in ("NormalisedL1L2", "SquaredError"))
WEIGHTED = [*SPLIT, SQUARED, "data.split.weighted=true", "data.split.density=uniform"]
CASES: dict[str, list[str]] = {
    "supervised": [],
    "ssdu": [*SPLIT, L1L2],
    "ssdu_squared": [*SPLIT, SQUARED],
    "weighted": WEIGHTED,
    "robust": [*WEIGHTED, "data.supervision=noisy"],
    "ensure": [*WEIGHTED, "model._target_=spinwarp.training.EnsureModule"],
}


def main() -> None:
    """Train every case, and write a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", nargs="+", default=[*CASES], choices=[*CASES, "zero_filled", "tv"])
    parser.add_argument("--snr", nargs="+", type=float, default=[50.0, 10.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--split", default="val", choices=["val", "test"])
    parser.add_argument("--override", nargs="*", default=[], help="more settings of every training")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    with arguments.out.open("a", newline="") as file:
        for snr in arguments.snr:
            for seed in arguments.seeds:
                for case in arguments.cases:
                    start = time.process_time()
                    found = run(case, arguments, snr, seed)
                    row = [case, snr, seed, arguments.steps, round(found, 3), round(time.process_time() - start)]
                    csv.writer(file).writerow([*row, *arguments.override])
                    file.flush()
                    print(*row, *arguments.override, flush=True)


def run(case: str, arguments: argparse.Namespace, snr: float, seed: int) -> float:
    """Train one case and return its mean PSNR in dB."""
    more = [f"data.source.path={arguments.heads}", f"data.source.snr=[{snr},{snr}]", f"data.seed={seed}"]
    with initialize_config_dir(str(conf_folder()), version_base=None):
        config = compose("train", [*DATA, *CASES.get(case, []), *more, *arguments.override])
    data = build_data(config)
    lightning.seed_everything(seed, verbose=False)
    if case in CASES:
        module = instantiate(config.model)
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_steps=arguments.steps, limit_val_batches=0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
            use_distributed_sampler=False,
            callbacks=[WarmStart("pretrained:heads_score", take="network", into="regulariser")],
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        method = module.net.eval()
    else:
        reconstructor = {"zero_filled": ZeroFilled, "tv": TotalVariation}[case]()
        method = lambda acquisition: reconstructor(acquisition).image  # noqa: E731
    values = []
    with torch.no_grad():
        for example in data.loader(arguments.split, evaluate=True):
            image = center_crop(method(example.acquisition).abs(), tuple(example.target.shape[-2:]))
            values.append(psnr(image, example.target, example.data_range))
    return float(torch.cat(values).mean())


if __name__ == "__main__":
    main()
