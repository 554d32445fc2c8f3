"""A recipe that trains in a second."""

from qrepro.recipe.axes import resolve

TINY = [
    "image.train=[{kind: resize, short: 64, long: 80}, {kind: flip}]",
    "image.eval=[{kind: resize, short: 64, long: 80}]",
    "schedule.steps=6",
    "schedule.batch=4",
    "schedule.warmup.steps=2",
    "schedule.log_every=1",
    "schedule.checkpoint_every=2",
    "neck.channels=16",
    "head.width=16",
    "head.convs=1",
    "head.groups=4",
]


def tiny(*more: str, name: str = "grad_r50"):
    return resolve(name, "shapes", [*TINY, *more])
