"""The house: imports point down only, and each outside library has its rooms."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "spinwarp"
FILES = sorted(PACKAGE.rglob("*.py"))

# from the top down; a unit may import from lower layers only
LAYERS = (
    {"cli"},
    {"training", "data.module", "evaluation"},
    {"report"},
    {"figures"},
    {"results", "data"},
    {"recon"},
    {"samplers", "models", "uncertainty", "preparation"},
    {"solvers", "coils"},
    {"operators", "masks", "metrics", "losses", "lightning_internals"},
    {"acquisition", "fourier", "channels", "parallel"},
    {"geometry"},
    {"errors", "files", "hardware", "progress", "renamed"},
)
# neighbours of one layer that may meet all the same: the SSIM loss is the SSIM metric, a file that cannot be read is an
# error of the input
SAME_LAYER = {("losses", "metrics"), ("files", "errors")}
# units that may use less than what lies below them
ONLY = {
    "data": {"acquisition", "geometry", "fourier", "masks", "coils", "errors", "files", "renamed"},
    "results": {"geometry", "errors", "files"},
    "figures": {"results", "errors", "files"},
    "report": {"figures", "results", "errors", "files"},
}
# a library and the places that may import it
ROOMS = {
    "hydra": ("cli/",),
    "omegaconf": ("cli/",),
    "lightning": ("training/", "data/module.py", "cli/", "lightning_internals.py"),
    "pytorch_lightning": (),
    "h5py": ("data/", "results/"),
    "matplotlib": ("figures/",),
    "wandb": ("training/loggers.py",),
}
# numpy's shift of something that is no centred transform of an image: the line mask as the reference writes it, and
# the power spectrum that a survey of image files looks at
SHIFTS = {"fourier.py", "masks/magic.py", "data/images/survey.py"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def unit_of(module: str) -> str:
    """The unit of a dotted name below ``spinwarp``: ``data.module.X`` to ``data.module``, ``data.ulf`` to ``data``."""
    parts = module.split(".")
    return "data.module" if parts[:2] == ["data", "module"] else parts[0]


def unit_of_file(path: Path) -> str:
    return unit_of(name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."))


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what depends on what"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def trees() -> Iterator[tuple[Path, ast.Module]]:
    return ((path, ast.parse(path.read_text(encoding="utf-8"))) for path in FILES)


def layer_of(unit: str) -> int:
    for depth, layer in enumerate(LAYERS):
        if unit in layer:
            return depth
    pytest.fail(f"src/spinwarp/{unit} has no layer yet: say where it belongs in LAYERS of tests/test_layers.py")


def complaints(path: Path, tree: ast.AST) -> Iterator[str]:
    """Imports of spinwarp within spinwarp that point sideways or up, or reach what the unit should not know."""
    unit = unit_of_file(path)
    if unit == "__init__":
        yield from (f"{name_of(path)} imports {name}" for name in imports(tree))
        return
    for name in imports(tree):
        root, _, inner = name.partition(".")
        if root != "spinwarp" or inner == "__version__":
            continue
        other = unit_of(inner)
        down = layer_of(other) > layer_of(unit) or (unit, other) in SAME_LAYER
        if other != unit and not (down and other in ONLY.get(unit, {other})):
            yield f"{name_of(path)} ({unit}) imports {name} ({other})"


def test_imports_point_down_only() -> None:
    assert [line for path, tree in trees() for line in complaints(path, tree)] == []


def test_no_imports_go_in_a_circle() -> None:
    """Those of modules within one unit too, which the layers say nothing of; imports inside functions count."""
    modules = {
        "spinwarp." + name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for path in FILES
    }
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        named = list(imports(ast.parse(path.read_text(encoding="utf-8"))))
        graph[module] = {name if name in modules else name.rpartition(".")[0] for name in named} & set(modules) - {
            module
        }
    while graph:  # leaves fall off until only circles are left
        leaves = {module for module, others in graph.items() if not others & set(graph)}
        if not leaves:
            break
        graph = {module: others - leaves for module, others in graph.items() if module not in leaves}
    assert graph == {}


def test_every_file_has_a_layer() -> None:
    assert len(FILES) > 50
    for path in FILES:
        if unit_of_file(path) != "__init__":
            layer_of(unit_of_file(path))


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/new.py", "from spinwarp.recon import ZeroFilled"),
        ("models/new.py", "def f():\n    import spinwarp.training.schedule"),
        ("coils/new.py", "from spinwarp import solvers"),
        ("recon/new.py", "from spinwarp.data.fastmri import FastMRI"),
        ("data/new.py", "from spinwarp.data.module import FastMRIDataModule"),
        ("data/new.py", "from spinwarp.models.unet import UNet"),
        ("figures/new.py", "from spinwarp.recon import ZeroFilled"),
        ("results/new.py", "from spinwarp.metrics import ssim"),
        ("acquisition.py", "from spinwarp.fourier import fftc"),
        ("metrics/new.py", "from spinwarp.losses import SSIMLoss"),
        ("__init__.py", "from spinwarp.acquisition import Acquisition"),
    ],
)
def test_an_import_that_points_up_or_sideways_is_noticed(file: str, line: str) -> None:
    assert len(list(complaints(PACKAGE / file, ast.parse(line)))) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/new.py", "from spinwarp.operators import sense"),
        ("data/module.py", "from spinwarp.data.source import Source"),
        ("training/new.py", "from spinwarp import __version__"),
        ("losses.py", "from spinwarp.metrics.functional import ssim"),
        ("coils/new.py", "import torch"),
    ],
)
def test_an_import_that_points_down_is_allowed(file: str, line: str) -> None:
    assert list(complaints(PACKAGE / file, ast.parse(line))) == []


def test_a_package_without_a_layer_asks_for_one() -> None:
    with pytest.raises(pytest.fail.Exception, match="src/spinwarp/novelty has no layer yet"):
        list(complaints(PACKAGE / "novelty/new.py", ast.parse("from spinwarp.errors import InputError")))


@pytest.mark.parametrize("library", ROOMS)
def test_outside_libraries_stay_in_their_rooms(library: str) -> None:
    strays = {
        name_of(path)
        for path, tree in trees()
        for name in imports(tree)
        if name.split(".")[0] == library and not name_of(path).startswith(ROOMS[library] or "nowhere")
    }
    assert not strays


def test_only_one_file_knows_where_the_zero_frequency_lies() -> None:
    shifting = {
        name_of(path)
        for path, tree in trees()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("fftshift", "ifftshift"))
        or (isinstance(node, ast.alias) and node.name in ("fftshift", "ifftshift"))
    }
    assert shifting <= SHIFTS, "use spinwarp.fourier.fftc and ifftc"
    assert "fourier.py" in shifting


def test_no_file_puts_a_tensor_on_a_gpu_by_name() -> None:
    assert [name_of(path) for path in FILES if ".cuda(" in path.read_text(encoding="utf-8")] == []


def test_double_precision_is_asked_for_in_one_place() -> None:
    # a device may have no float64, which channels.double knows; metrics/volume.py keeps its tables where that says
    words = ("torch.float64", "torch.double", "torch.complex128", ".double()")
    found = {name_of(path) for path in FILES if any(word in path.read_text(encoding="utf-8") for word in words)}
    assert found <= {"channels.py", "metrics/volume.py"}, "use spinwarp.channels.double"


def test_no_file_is_longer_than_400_lines() -> None:
    files = [path for folder in ("src", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert [name_of(path) for path in FILES if drawers & set(name_of(path).removesuffix(".py").split("/"))] == []


def test_no_constructor_takes_whatever_it_is_given() -> None:
    loose = [
        f"{name_of(path)}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__" and (node.args.kwarg or node.args.vararg)
    ]
    assert loose == []


@pytest.mark.parametrize(
    "module",
    ["spinwarp", *(f"spinwarp.cli.{name}" for name in ("train", "evaluate", "reconstruct", "convert", "serve"))],
)
def test_help_need_not_wait_for_torch(module: str) -> None:
    heavy = "{'torch', 'lightning', 'torchmetrics', 'matplotlib', 'scipy', 'h5py'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
