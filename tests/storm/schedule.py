"""Which fault when: a random schedule that a seed repeats."""

import random
from dataclasses import dataclass

# Name: how often, shortest and longest time it lasts in seconds. Those that last 0 are over when they have happened.
FAULTS = {
    "rclone killed": (4, 0, 0),
    "rclone stopped": (1, 2, 6),
    "bucket refuses": (2, 0.5, 8),
    "bucket silent": (2, 0.5, 8),
    "bucket answers 503": (2, 0.5, 8),
    "bucket answers 500": (1, 0.5, 8),
    "bucket cuts connections": (2, 0, 0),
    "bucket's answer lost": (2, 0, 0),
    "bucket's upload arrives late": (2, 1, 8),
    "bucket slow": (1, 1, 8),
    "bucket's server killed": (1, 0.5, 5),
    "app killed": (1, 0, 0),
    "supervisor killed": (2, 0, 0),
    "tenant stopped and started": (2, 0, 0),
    "tenant stopped twice": (1, 0, 0),
    "machine dead, disk kept": (2, 0, 0),
    "machine suspended": (1, 1, 6),
}


@dataclass(frozen=True)
class Step:
    """After `pause` seconds of peace `fault` comes and lasts `seconds`; with `overlap` the next one does not wait for its end."""

    pause: float
    fault: str
    seconds: float
    overlap: bool


def schedule(seed, steps, faults=FAULTS):
    """`steps` of the `faults`."""
    source = random.Random(seed)
    names = list(faults)
    weights = [faults[name][0] for name in names]
    made = []
    for _ in range(steps):
        name = source.choices(names, weights)[0]
        _, shortest, longest = faults[name]
        made.append(Step(
            pause=round(source.choice((0, 0.3, 1, 3)) * source.uniform(0.5, 1.5), 2),
            fault=name,
            seconds=round(source.uniform(shortest, longest), 2),
            overlap=source.random() < 0.4,
        ))
    return made
