"""``train.py``: train a model."""

import errno
import logging
import shutil
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from spinwarp.cli import app, resume
from spinwarp.errors import InputError
from spinwarp.parallel import processes

if TYPE_CHECKING:
    from spinwarp.data.module import FastMRIDataModule
    from spinwarp.masks import LearnedMask
    from spinwarp.training.base import NetworkModule

log = logging.getLogger("spinwarp")

#: allowed values of ``trainer.precision``; those of Lightning that also convert the data are missing
PRECISIONS = ("32", "32-true", "bf16-mixed", "16-mixed", "auto")


def main() -> None:
    """Entry point of ``spinwarp-train``."""
    app.run("train", train, {"seed": int, "ckpt_path": str | None, "compile": bool})


def train(config: DictConfig) -> float | None:
    """Train a model; return the best value of the monitored metric, which searches optimise."""
    import lightning
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    from spinwarp.cli.loggers import begin, reported
    from spinwarp.data.patients import digest
    from spinwarp.training.score import ScoreModule

    app.refuse_parallel_sweep(config, HydraConfig.get())
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # or the profiler's report would be lost
    # torch renamed a class that Lightning still uses
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    if not 0 <= config.seed < 2**32:
        raise InputError(f"seed={config.seed} must be from 0 to {2**32 - 1}")
    if config.trainer.accumulate_grad_batches < 1:
        raise InputError(f"trainer.accumulate_grad_batches={config.trainer.accumulate_grad_batches} must be at least 1")
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    folder = Path(HydraConfig.get().runtime.output_dir)
    data = build_data(config)
    precision = training_precision(config)
    module = build_module(config)
    learned = learn_sampling(module, data)
    check_fit(HydraConfig.get().runtime.choices["model"], module, data)
    checkpoint = resume.checkpoint_of(config.ckpt_path, folder)
    going_on, used = ([], app.plain(config)) if checkpoint is None else resume.check(checkpoint, module, config)
    if config.ckpt_path == "last":
        going_on = going_on or [f"there is no {resume.last_checkpoint(folder)} yet; training starts from the beginning"]
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    if config.callbacks and processes.is_first():
        if config.ckpt_path != "last" and not config.trainer.fast_dev_run:
            resume.check_nothing_is_overwritten(folder, checkpoint)
        _check_disk(folder, module)
    with processes.in_turn():
        data.prepare_data()
    for split in ("train", "val"):  # a missing split fails here, not after an epoch
        data.dataset(split)
    volumes = data.source.volumes("train")
    module.record = {
        "net": app.plain(config.model.net),
        "name": HydraConfig.get().runtime.choices["model"],
        "trained_on": {
            "dataset": data.source.name,
            "volumes": [v.name for v in volumes],
            "patients": sorted({digest(data.source.name, v.patient) for v in volumes if v.patient}),
        },
        "config": used,
    }
    if isinstance(module, ScoreModule):
        module.record["nearly_real"] = module.nearly_real(min(v.shape[0] for v in volumes))
    callbacks = [instantiate(callback) for callback in (config.callbacks or {}).values() if callback is not None]
    loggers = [instantiate(logger) for logger in (config.logger or {}).values() if logger is not None]
    trainer = instantiate(
        config.trainer, precision=precision, callbacks=callbacks, logger=loggers, default_root_dir=str(folder)
    )
    alone = resume.alone_in(folder) if processes.is_first() else nullcontext()
    with alone, reported(loggers), _sentences(trainer, folder):
        if trainer.is_global_zero:
            begin(loggers, ("model", "mask", "data"), goes_on=resume.goes_on_in(folder, checkpoint))
            _describe(data, module, folder)
            for sentence in going_on:
                log.info(sentence)
            for logger in trainer.loggers:  # with fast_dev_run these are not ours
                logger.log_hyperparams(used)
        with processes.together(trainer.world_size, resume.last_checkpoint(folder)):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if learned is not None and trainer.is_global_zero and not trainer.fast_dev_run:
            _export(trainer, learned, folder)
    return _best(trainer) if trainer.is_global_zero else None


@contextmanager
def _sentences(trainer: Any, folder: Path) -> Iterator[None]:
    """Turn what ends a training (settings of the trainer, memory, disk, a signal) into one sentence."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from spinwarp.training.divergence import DivergedError

    last = resume.last_checkpoint(folder)
    try:
        yield
    except DivergedError as error:
        if trainer.is_global_zero:
            raise
        raise SystemExit(1) from error  # the first process reports it
    except InputError:
        raise
    except (MemoryError, RuntimeError, ValueError, MisconfigurationException) as error:
        if (sentence := _out_of_memory(error) or _wrong_settings(error)) is None:
            raise
        raise InputError(sentence) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"the disk is full; make room, and continue from the last whole checkpoint with ckpt_path=last "
            f"hydra.run.dir={folder}"
        ) from error
    except SystemExit as stop:  # a signal: 128 + its number; Lightning exits with 1 at a second Ctrl-C
        way = f"; continue with ckpt_path={last}, or in this folder with ckpt_path=last hydra.run.dir={folder}"
        if trainer.is_global_zero:
            log.info("interrupted%s", way if last.exists() else "; there is no checkpoint yet")
        raise SystemExit(130 if stop.code == 1 else stop.code) from None


def _out_of_memory(error: BaseException) -> str | None:
    """Return what to do if an error says that memory ran out, else None."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU's memory is too small: lower data.batch_size, or use trainer.precision=bf16-mixed or trainer=8gb"
        )
    text = str(error)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "the memory is too small: lower data.batch_size or data.num_workers, or take a smaller model"
    if "DataLoader worker" in text and "Killed" in text:
        return "a process that loads data was killed, most likely because memory ran out: lower data.num_workers"
    return None


def _wrong_settings(error: BaseException) -> str | None:
    """Return what Lightning itself finds wrong with its settings; None if other code raised the error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if not frame.f_globals.get("__name__", "").startswith("lightning."):
        return None
    return f"these settings of trainer or callbacks do not work: {' '.join(str(error).split())[:400]}"


def _best(trainer: Any) -> float | None:
    """Return the best value of the monitored metric; NaN if it was never finite, None if nothing is monitored."""
    best = trainer.checkpoint_callback
    monitor = getattr(best, "monitor", None)
    if monitor is None or trainer.fast_dev_run:
        return None
    if best.best_model_score is not None:  # also that of a run that had ended before
        score = float(best.best_model_score)
        log.info("best checkpoint (%s %.4f): %s", monitor, score, best.best_model_path)
        return score
    if monitor in trainer.callback_metrics:
        log.warning("there is no best checkpoint: %s was never a finite number", monitor)
        return float("nan")
    log.warning("there is no best checkpoint: nothing was validated (trainer.limit_val_batches=0, or too few epochs)")
    return None


def _check_disk(folder: Path, module: Any) -> None:
    """Check that the disk has room for the checkpoints.

    A checkpoint holds the weights and at most two more numbers per trained weight (Adam). While one is written,
    ``best.ckpt`` and ``last.ckpt`` lie beside it.
    """

    weights = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in module.trained_parameters())
    there = sum(file.is_file() for file in (folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")))
    needed, free = (3 - there) * (weights + 2 * trained), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the disk of {folder} has {free / 1e6:.0f} MB left, and the checkpoints of this model take up to "
            f"{needed / 1e6:.0f} MB; make room, or choose a folder on another disk with hydra.run.dir=FOLDER"
        )


def training_precision(config: DictConfig) -> str:
    """Return the precision for Lightning; ``auto`` means bf16-mixed if the device has native bf16.

    Raises
    ------
    InputError : if the precision is none of :data:`PRECISIONS`, or float16 on a CPU.
    """
    import torch

    from spinwarp.channels import auto_is_bf16
    from spinwarp.hardware import has_bf16

    precision, accelerator = str(config.trainer.get("precision", "32")), config.trainer.get("accelerator", "auto")
    if precision not in PRECISIONS:
        raise InputError(f"trainer.precision={precision} is not one of 32, bf16-mixed, 16-mixed, auto")
    gpu = torch.accelerator.current_accelerator()
    device = "cpu" if accelerator == "cpu" or gpu is None else gpu.type
    if precision == "16-mixed" and accelerator in ("cpu", "auto") and device == "cpu":
        raise InputError("trainer.precision=16-mixed needs a GPU; on a CPU use trainer.precision=auto")
    if precision == "bf16-mixed" and not has_bf16(device):
        log.warning(
            "trainer.precision=bf16-mixed is slow: this %s has no native bf16; try trainer.precision=auto", device
        )
    if precision == "auto":
        return "bf16-mixed" if auto_is_bf16(device) else "32-true"
    return precision


def build_module(config: DictConfig) -> "NetworkModule":
    """Build the module of a training configuration; with ``compile=true`` its network is compiled at the first step.

    Raises
    ------
    InputError : if ``net.checkpoint`` is set for a network without that option.
    """
    from hydra.utils import get_class, instantiate

    net = config.model.net
    if net.get("checkpoint") and "checkpoint" not in signature(get_class(net._target_)).parameters:
        raise InputError(
            f"trainer=8gb recomputes cascades (net.checkpoint), but {net._target_.rpartition('.')[2]} has none; "
            f"train it with trainer=gpu trainer.precision=bf16-mixed"
        )
    module: NetworkModule = instantiate(config.model)
    if config.get("compile"):
        module.net.compile()
    return module


def check_fit(model: str, module: "NetworkModule", data: "FastMRIDataModule") -> None:
    """Check that the data have what a model learns from.

    Raises
    ------
    InputError : if a prior gets a mask, adjacent slices are missing, held-out lines meet a model that does not learn
        from them, or the reverse.
    """
    if module.whole_images and data.mask is not None:
        raise InputError(
            f"model={model} learns from whole images, without a mask; leave mask= out, and give it when you reconstruct"
        )
    if (n := getattr(module.net, "n_adjacent", 1)) > data.n_adjacent:
        raise InputError(
            f"model={model} sees {n} adjacent slices at once, and the data bring {data.n_adjacent}; set "
            f"data.n_adjacent={n}"
        )
    if module.without_references and data.supervision == "full":
        raise InputError(f"model={model} learns from held-out lines; set data.supervision=split or noisy")
    if data.reference_rate < 1 and not (module.some_without_references or module.without_references):
        raise InputError(
            f"model={model} needs a reference for every scan; set data.reference_rate=1, or take "
            f"model=varnet_noise2recon"
        )
    if not module.without_references and data.supervision != "full":
        raise InputError(
            f"model={model} does not learn from held-out lines (data.supervision={data.supervision}); set "
            f"data.supervision=full, or take model=varnet_ssdu"
        )


def learn_sampling(module: "NetworkModule", data: "FastMRIDataModule") -> "LearnedMask | None":
    """Let the module learn the mask of the data, if it is one that can be learned; return it.

    Raises
    ------
    InputError : if the model does not learn from whole scans and their references.
    """
    from spinwarp.data.undersample import MAPS, AddMaps
    from spinwarp.masks import LearnedMask
    from spinwarp.training.sampling import LearnedSampling
    from spinwarp.training.supervised import SupervisedModule

    mask = data.mask
    if not isinstance(mask, LearnedMask):
        return None
    its_own = data.eval_mask is mask
    if not isinstance(module, SupervisedModule) or module.without_references or not its_own:
        raise InputError(
            "mask=learned is learned by networks that are trained end to end with references (model=varnet, unet and "
            "others), and validates with the same mask"
        )
    module.sampling = LearnedSampling(mask, AddMaps(MAPS.get(data.maps)))
    return mask


def _export(trainer: Any, mask: "LearnedMask", folder: Path) -> None:
    """Write the learned mask of the best checkpoint, or of the last if there is no best one."""
    from spinwarp.training.sampling import write_mask

    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or str(resume.last_checkpoint(folder))
    if Path(best).is_file():
        write_mask(best, mask, folder / "mask.npy")
    else:
        log.warning("there is no checkpoint, so the learned mask is not written")


def build_data(config: DictConfig) -> "FastMRIDataModule":
    """Build the data module with its masks; ``mask=none`` leaves the data as measured."""
    from hydra.utils import instantiate

    mask = instantiate(config.mask) if config.mask else None
    data: FastMRIDataModule = instantiate(config.data, mask=mask)
    return data


def _describe(data: "FastMRIDataModule", module: Any, folder: Path) -> None:
    """Log the model, the data and the mask with its realised acceleration."""
    from hydra.core.hydra_config import HydraConfig

    from spinwarp.data.patients import warn_of_shared_patients

    choices = HydraConfig.get().runtime.choices
    dataset = data.dataset("train", maps=False)
    example = dataset.example(0, 0)
    learned = getattr(module, "sampling", None)
    rates = [
        learned.mask.nominal_acceleration if learned else float(dataset.example(0, i).acquisition.acceleration())
        for i in range(min(8, len(dataset)))
    ]
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
