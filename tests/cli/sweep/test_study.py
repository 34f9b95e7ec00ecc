"""The study that several workers share: who gets which trial, and what becomes of trials whose worker died."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler

from spinwarp.cli.sweep.study import ATTEMPTS, SharedStudy
from spinwarp.errors import InputError

SPACE = {"lr": FloatDistribution(0.0, 1.0)}
Open = Callable[..., SharedStudy]


@pytest.fixture
def worker(tmp_path: Path) -> Open:
    def open_study(n_trials: int = 4, search: str = "lr", grace_s: float = 60.0, seed: int = 0) -> SharedStudy:
        sampler = RandomSampler(seed=seed)
        return SharedStudy(tmp_path / "study.db", sampler, "maximize", {"of": search}, n_trials, 0.02, grace_s)

    return open_study


def test_workers_that_open_and_ask_at_once_get_n_trials_together(worker: Open) -> None:
    def work(seed: int) -> int:
        study, done = worker(n_trials=6, seed=seed), 0
        while (trial := study.ask(SPACE)) is not None:
            study.end(trial, trial.params["lr"], {"folder": str(seed)})
            done += 1
        return done

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(work, range(3))) == 6
    complete = worker().complete()
    assert [trial.number for trial in complete] == list(range(6))
    assert worker().study.best_value == max(trial.params["lr"] for trial in complete)


def test_a_failed_trial_counts_and_keeps_its_reason(worker: Open) -> None:
    study = worker(n_trials=2)
    for reason in ("too large", "not finite"):
        study.end(study.ask(SPACE), None, {"error": reason})
    assert study.ask(SPACE) is None
    assert [trial.user_attrs["error"] for trial in worker().failed()] == ["too large", "not finite"]


def test_a_study_goes_on_when_more_trials_are_asked_for(worker: Open) -> None:
    study = worker(n_trials=1)
    study.end(study.ask(SPACE), 0.5, {})
    assert study.ask(SPACE) is None
    assert worker(n_trials=2).ask(SPACE).number == 1


def test_the_parameters_of_a_killed_trial_are_tried_again_and_it_does_not_count(worker: Open) -> None:
    killed = worker(n_trials=1).ask(SPACE)
    assert worker(n_trials=1).ask(SPACE) is None  # for all the others know it is running
    survivor = worker(n_trials=1, grace_s=0.05, seed=1)
    time.sleep(0.1)
    again = survivor.ask(SPACE)
    assert (again.number, again.params) == (1, killed.params)
    survivor.end(again, 1.0, {})
    assert survivor.running() == [] and survivor.failed() == [] and survivor.ask(SPACE) is None


def test_a_trial_that_says_it_is_alive_is_left_alone(worker: Open) -> None:
    study = worker(n_trials=1, grace_s=1.0)
    trial = study.ask(SPACE)
    with study.alive(trial):
        time.sleep(1.2)
        assert worker(n_trials=1, grace_s=1.0).ask(SPACE) is None
    assert study.running() == [0]


def test_an_interrupted_trial_is_given_back_at_once(worker: Open) -> None:
    study = worker(n_trials=1)
    interrupted = study.ask(SPACE)
    study.give_back(interrupted)
    assert worker(n_trials=1, seed=1).ask(SPACE).params == interrupted.params


def test_parameters_that_kill_their_process_are_not_tried_for_ever(worker: Open) -> None:
    study = worker(n_trials=1)
    tried = []
    for _ in range(ATTEMPTS + 1):
        trial = study.ask(SPACE)
        tried.append(trial.params["lr"])
        study.give_back(trial)
    assert len(set(tried[:-1])) == 1
    assert tried[-1] != tried[0]


def test_the_value_of_a_worker_that_was_thought_dead_is_not_taken_twice(worker: Open) -> None:
    slow, quick = worker(n_trials=1, grace_s=0.05), worker(n_trials=1, grace_s=0.05)
    late = slow.ask(SPACE)
    time.sleep(0.1)
    again = quick.ask(SPACE)
    slow.end(late, 0.9, {})
    slow.end(late, None, {"error": "late"})
    slow.give_back(late)
    quick.end(again, 0.5, {})
    assert [trial.value for trial in quick.complete()] == [0.5]
    assert quick.failed() == []


def test_a_study_of_another_search_is_refused(worker: Open) -> None:
    worker()
    with pytest.raises(
        InputError, match=r"study.db is the study of another search \(of: lr, now width\); give another"
    ):
        worker(search="width")
