"""``train.py``: compose, fit, say where everything is."""

import errno
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from spinwarp.cli import configuration, processes, resume
from spinwarp.cli.building import build_module

if TYPE_CHECKING:
    from spinwarp.data.module import FastMRIDataModule

log = logging.getLogger("spinwarp")


def main() -> None:
    """Entry point of ``spinwarp-train``."""
    configuration.run("train", train, {"seed": int, "ckpt_path": str | None, "compile": bool})


def train(config: DictConfig) -> float | None:
    """Train a model; return the best value of the monitored metric, which sweeps optimise."""
    import lightning
    import torch
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    from spinwarp.data.patients import digest
    from spinwarp.errors import InputError

    configuration.refuse_parallel_sweep(config, HydraConfig.get())
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # its report is what a profiler is for
    # torch renamed a class that Lightning still asks for
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    folder = Path(HydraConfig.get().runtime.output_dir)
    data = build_data(config)
    module = build_module(config)
    if module.whole_images and data.mask is not None:
        raise InputError(
            f"model={HydraConfig.get().runtime.choices['model']} learns from whole images and knows nothing of masks; "
            f"leave mask= out, and give it when you reconstruct"
        )
    checkpoint = resume.checkpoint_of(config.ckpt_path, folder)
    going_on = [] if checkpoint is None else resume.check(checkpoint, module, config)
    if config.ckpt_path == "last":
        going_on = going_on or [f"no {resume.last_checkpoint(folder)} yet: training starts anew"]
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    with processes.in_turn():
        data.prepare_data()
    for split in ("train", "val"):  # one that is missing is better known before training than after
        data.dataset(split)
    module.record = {
        "net": configuration.plain(config.model.net),
        "name": HydraConfig.get().runtime.choices["model"],
        "trained_on": {
            "dataset": data.source.name,
            "volumes": [v.name for v in data.source.volumes("train")],
            "patients": sorted(
                {digest(data.source.name, v.patient) for v in data.source.volumes("train") if v.patient}
            ),
        },
        "config": configuration.plain(config),
    }
    callbacks = [instantiate(callback) for callback in (config.callbacks or {}).values() if callback is not None]
    loggers = [instantiate(logger) for logger in (config.logger or {}).values() if logger is not None]
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, default_root_dir=str(folder))
    if trainer.is_global_zero:
        _describe(data, module, folder)
        _describe_steps(trainer, data, module)
        for sentence in going_on:
            log.info(sentence)
        for logger in trainer.loggers:  # with fast_dev_run none of ours
            logger.log_hyperparams(configuration.plain(config))
    try:
        with processes.together(trainer.world_size, resume.last_checkpoint(folder)):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(
            "the GPU's memory is too small: lower data.batch_size, or use trainer.precision=bf16-mixed, or trainer=8gb"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"the disk is full; make room, and go on from the last whole checkpoint with ckpt_path=last "
            f"hydra.run.dir={folder}"
        ) from error
    except SystemExit as stop:  # a signal: 128 + its number; 1 is Lightning's answer to a second Ctrl-C
        last = resume.last_checkpoint(folder)
        way = f"; go on with ckpt_path={last}, in this folder with ckpt_path=last hydra.run.dir={folder}"
        if trainer.is_global_zero:
            log.info("interrupted%s", way if last.exists() else "; there is no checkpoint yet")
        raise SystemExit(130 if stop.code == 1 else stop.code) from None
    finally:
        if any(type(logger).__name__ == "WandbLogger" for logger in loggers):
            import wandb

            wandb.finish()  # otherwise the runs of a sweep are merged into one
    best = trainer.checkpoint_callback
    if trainer.is_global_zero and getattr(best, "best_model_score", None) is not None:
        score = float(best.best_model_score)
        log.info("best checkpoint (%s %.4f): %s", best.monitor, score, best.best_model_path)
        return score
    return None


def build_data(config: DictConfig) -> "FastMRIDataModule":
    """Build the data module with its masks; ``mask=none`` leaves the data as measured."""
    from hydra.utils import instantiate

    mask = instantiate(config.mask) if config.mask else None
    data: FastMRIDataModule = instantiate(config.data, mask=mask)
    return data


def _describe(data: "FastMRIDataModule", module: Any, folder: Path) -> None:
    """Print what is trained on what, with the acceleration that the mask really gives."""
    from hydra.core.hydra_config import HydraConfig

    from spinwarp.data.patients import warn_of_shared_patients

    choices = HydraConfig.get().runtime.choices
    dataset = data.dataset("train")
    example = dataset.example(0, 0)
    rates = [float(dataset.example(0, i).acquisition.acceleration()) for i in range(min(8, len(dataset)))]
    warn_of_shared_patients(data.source)
    n_parameters = sum(p.numel() for p in module.net.parameters())
    kspace = tuple(example.acquisition.kspace.shape[1:])
    provenance = example.acquisition.headers[0].provenance
    log.info(
        "model %s (%.2f M parameters), data %s (%s; %d slices, first k-space %s), mask %s (realised R %.2f to %.2f "
        "over %d slices)",
        choices["model"],
        n_parameters / 1e6,
        data.source.name,
        provenance,
        len(dataset),
        "x".join(map(str, kspace)),
        choices["mask"],
        min(rates),
        max(rates),
        len(rates),
    )
    log.info("run folder %s", folder)


def _describe_steps(trainer: Any, data: "FastMRIDataModule", module: Any) -> None:
    """Print how many slices make a step, and the learning rate that goes with it."""
    n_accumulated = trainer.accumulate_grad_batches
    slices = trainer.world_size * data.batch_size * n_accumulated
    log.info(
        "effective batch size %d (%d processes x batch %d x accumulation %d), learning rate %g",
        slices,
        trainer.world_size,
        data.batch_size,
        n_accumulated,
        module.make_optimizer(module.trained_parameters()).param_groups[0]["lr"] * module.rate_factor(slices),
    )
