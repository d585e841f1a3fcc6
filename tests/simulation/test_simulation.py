"""The scheduler machine among simulated nodes: `RACT_SIM_SEED=n` replays one seed, all variants."""

import os

import pytest
from simulation.simulator import World

SEEDS = [int(os.environ["RACT_SIM_SEED"])] if "RACT_SIM_SEED" in os.environ else range(1, 16)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_released_when_nothing_fails(seed):
    World(seed, crashes=False).play(3.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_released_among_crashes_of_executors_drivers_and_nodes(seed):
    World(seed, crashes=True, nodes=4).play(4.0)


def test_same_seed_gives_the_same_story():
    stories = []
    for _ in range(2):
        world = World(7, nodes=3)
        world.play(2.0)
        stories.append((list(world.story), world.now))
    assert stories[0] == stories[1]
