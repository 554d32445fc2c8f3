"""A run folder: where a recipe's results lie, its identity card, its log and its checkpoints."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision

from qrepro import __version__
from qrepro.engine import checkpoint
from qrepro.recipe.schema import Recipe
from qrepro.records.atomic import write_text


def folder(root: Path, recipe: Recipe, seed: int) -> Path:
    """`results/<recipe>[+overrides]/<profile>/seed<k>`: a run with overrides never passes for the recipe itself."""
    suffix = ",".join(re.sub(r"[^\w.=-]+", "_", text) for text in recipe.overrides)
    if len(suffix) > 100:
        suffix = recipe.hash
    return root / (recipe.name + (f"+{suffix}" if suffix else "")) / recipe.profile / f"seed{seed}"


@dataclass(frozen=True)
class Run:
    """A folder of one trained model; see the architecture of results/ in the README."""

    path: Path

    @property
    def card(self) -> Path:
        """Identity of the run."""
        return self.path / "run.json"

    @property
    def log(self) -> Path:
        """One JSON object a logged step."""
        return self.path / "log.jsonl"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the highest AP, where the schedule evaluates during training."""
        return self.path / "best.pt"

    def folder(self, split: str | None, recipe: Recipe) -> Path:
        """Where the evaluation of a split lies: in the run for the profile's own, below it for any other."""
        return self.path if split in (None, recipe.data.eval) else self.path / f"split-{split.replace('/', '-')}"

    def write_card(self, recipe: Recipe, seed: int, **more: Any) -> None:
        """Record what is trained here, and by what."""
        card = {
            "recipe": recipe.name,
            "profile": recipe.profile,
            "seed": seed,
            "hash": recipe.hash,
            "overrides": recipe.overrides,
            "commit": commit(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {
                "qrepro": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
            **more,
            "values": recipe.values(),
        }
        write_text(self.card, json.dumps(card, indent=1))

    def read_card(self) -> dict[str, Any]:
        """The identity card; raises `ValueError` where there is none."""
        try:
            return json.loads(self.card.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{self.path}: not a run folder (no run.json); `qrepro train` makes one") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.card}: broken JSON: {error}") from error

    def clear(self) -> None:
        """Remove what an earlier training and its evaluation left."""
        made = ("metrics.json", "positives.parquet", "matches.parquet", "distributions.parquet", "candidates.parquet")
        for file in (self.last, self.best, self.log, *(self.path / name for name in made)):
            file.unlink(missing_ok=True)
        for file in (self.path / "detections").glob("*.parquet"):
            file.unlink()
        for folder in (self.path / "rescored", *self.path.glob("split-*")):
            shutil.rmtree(folder, ignore_errors=True)

    def progress(self, recipe: Recipe, seed: int) -> Literal["nothing", "begun", "trained"]:
        """How far this recipe has been trained here with this seed."""
        if not self.last.exists():
            return "nothing"
        found = checkpoint.load(self.last)
        if (found["hash"], found["seed"]) != (recipe.hash, seed):
            return "nothing"
        return "trained" if found["step"] == self.read_card().get("steps") else "begun"

    def judged(self) -> bool:
        """Whether the last checkpoint has been evaluated."""
        metrics = self.path / "metrics.json"
        return metrics.exists() and metrics.stat().st_mtime >= self.last.stat().st_mtime

    def metrics(self) -> dict[str, Any]:
        """What the last evaluation measured."""
        return json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))

    def rules(self) -> list[str]:
        """Scoring rules that the run was evaluated by."""
        return list(self.metrics()["rules"])

    def cut_log(self, step: int) -> None:
        """Drop log lines after `step`: a resumed run writes them again."""
        if self.log.exists():
            lines = [line for line in self.log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            write_text(self.log, "".join(f"{line}\n" for line in kept))


def commit() -> str:
    """Commit of the checkout that this code runs from, `-dirty` with local changes, or `` outside a checkout."""
    here = Path(__file__).parent
    try:
        call = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude", "*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
