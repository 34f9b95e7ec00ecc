"""What the command line says is searched, as the distributions of Optuna."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spinwarp.cli.sweep.space import as_overrides, split
from spinwarp.errors import InputError


def parsed(*lines: str) -> list:
    return OverridesParser.create().parse_overrides(list(lines))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0,1)", FloatDistribution(0, 1)),
        ("tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(4,16))", IntDistribution(4, 16)),
        ("tag(log,int(interval(4,64)))", IntDistribution(4, 64, log=True)),
        ("range(1,5)", IntDistribution(1, 4)),  # Hydra's range, like Python's, ends before its stop
        ("range(2,9,3)", IntDistribution(2, 8, step=3)),
        ("range(9,2,-3)", IntDistribution(3, 9, step=3)),
        ("range(0.0,1.0,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("a,b", CategoricalDistribution(["a", "b"])),
        ("8,null,[1,2],'x y'", CategoricalDistribution(["8", "null", "[1,2]", "'x y'"])),
    ],
)
def test_hydras_ways_to_write_several_values_become_distributions(text: str, expected: object) -> None:
    _, space = split(parsed(f"model.width={text}"))
    assert space == {"model.width": expected}


def test_what_is_not_searched_stays_as_it_was_written() -> None:
    fixed, space = split(parsed("model=unet", "+data.new='a b'", "~callbacks.panel", "++x=[1,2]", "lr=interval(0,1)"))
    assert fixed == ["model=unet", "+data.new='a b'", "~callbacks.panel", "++x=[1,2]"]
    assert list(space) == ["lr"]


def test_numbers_keep_every_digit_on_their_way_into_an_override() -> None:
    (line,) = as_overrides({"lr": 0.1 + 0.2})
    assert parsed(line)[0].value() == 0.1 + 0.2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["model=unet"], "nothing is searched: give .* such as 'model.optimizer.lr=tag"),
        (["lr=interval(2,1)"], r"lr=interval\(2,1\) cannot be searched"),
        (["lr=tag(log,interval(0,1))"], r"lr=tag\(log,interval\(0,1\)\) cannot be searched"),
        (["n=range(3,3)"], "the range is empty"),
        (["n=tag(log,range(1,9,2))"], "cannot be searched"),
    ],
)
def test_a_search_that_cannot_be_is_named(lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(parsed(*lines))
