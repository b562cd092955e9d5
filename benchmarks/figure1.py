"""Figure 1 of the paper, again: word error rate over training for each choice of what to train, and what text is worth.

One alignment for each seed: the adaptor learns to spell and to be listened to. From there every arm trains for as many
steps on the same batches, and is measured on the same test sets and texts:

    kappa-lowest, kappa-highest   the paper's two: N tensors with the smallest, the largest condition number
    random                        N tensors drawn at random, others for each seed
    within-role                   the smallest condition number within each role, N in all
    adaptor-only                  nothing of the language model
    lora, gated-lora              LoRA on every linear layer; the second is silent where no audio is heard

N is the paper's share: 100 of 225 tensors of Llama-8B, 94 of the 210 matrices of SmolLM2-135M. The adaptor's learning
rate is the same in all arms. Everything is resumable: run the same command again after a kill, or to go on later.

    python -m benchmarks.figure1 [--seeds 1] [--jobs 2] [--json benchmarks/results/figure1.json]

`--unspelled` also trains an alignment that was never taught to spell, for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path("build/figure1")
NUM_TENSORS: Final = 94
PLANS: Final[Mapping[str, Sequence[str]]] = {
    "kappa-lowest": ("--order", "lowest"),
    "kappa-highest": ("--order", "highest"),
    "random": ("--criterion", "random"),
    "within-role": ("--within", "role"),
}
ARMS: Final = ("kappa-lowest", "kappa-highest", "adaptor-only", "random", "within-role", "lora", "gated-lora")
RATE: Final = 1e-4  # of chosen tensors, and of the adaptor in every arm
LORA_RATE: Final = 5e-4  # low-rank matrices bear and need more
LORA_RANK: Final = 16

BASE: Final[dict[str, Any]] = {
    "encoder": "whisper-base",
    "language_model": "demo",
    "trailing_silence": 1.0,
    "data": {
        "train": ["speech:prompts-en-train", "speech:synthetic-en-train", "speech:synthetic-de-train"],
        "evaluate": {"human-en": "speech:prompts-en-test", "synthetic-de": "speech:synthetic-de-test"},
        "limits": {"evaluate": 48, "max_seconds": 20},
    },
    "retention": {
        "english": {"source": "bundled:english-prose", "documents": 6},
        "code": {"source": "bundled:python-code", "documents": 6},
    },
    "adaptor": {"kind": "attention"},
    "batch": {"max_seconds": 50, "max_utterances": 8},
    "threads": 1,
}
SPELL: Final = {"epochs": 6, "learning_rate": 1e-3, "batch": {"max_seconds": 110, "max_utterances": 16}}
ALIGN: Final = {"max_steps": 400, "gate": 0.2, "after_gate_steps": 50, "learning_rate": 3e-4}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write the page, the figure and the numbers."""
    options = parse(arguments)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    make_plans(folder, options.seeds)
    seeds = range(options.seeds)
    with ThreadPoolExecutor(options.jobs) as pool:
        starts = [align_recipe(folder, seed) for seed in seeds]
        starts += [leave_out_spelling(recipe) for recipe in starts[:1] if options.unspelled]
        list(pool.map(lambda recipe: train(folder, recipe), starts))
        recipes = [arm_recipe(folder, arm, seed, options) for seed in seeds for arm in options.arms]
        list(pool.map(lambda recipe: train(folder, recipe), recipes))
    report(folder, options)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=120, help="of every arm")
    parser.add_argument("--evaluate-every", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--unspelled", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def make_plans(folder: Path, num_seeds: int) -> None:
    """Scan the language model, and write the plans that are missing."""
    scan = folder / "demo.scan.jsonl"
    if not scan.exists():
        oblong("scan", "demo", "-o", str(scan))
    for name, flags in PLANS.items():
        for seed in range(num_seeds if name == "random" else 1):
            path = plan_path(folder, name, seed)
            if not path.exists():
                oblong("plan", str(scan), "--budget", str(NUM_TENSORS), "--seed", str(seed), *flags, "-o", str(path))


def plan_path(folder: Path, name: str, seed: int) -> Path:
    """Where a plan lies; only the random one differs between seeds."""
    return folder / (f"{name}-{seed}.plan.yaml" if name == "random" else f"{name}.plan.yaml")


def align_recipe(folder: Path, seed: int) -> dict[str, Any]:
    """Spelling and stage A; its one step of stage B is not used."""
    return BASE | {
        "output": str(folder / f"aligned-{seed}"),
        "seed": seed,
        "spell": SPELL,
        "align": ALIGN,
        "adapt": {"arm": {"adaptor_only": True}, "steps": 1, "learning_rate": RATE},
        "evaluate_every": 50,
    }


def leave_out_spelling(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The same alignment of an adaptor that was not taught to spell."""
    output = Path(recipe["output"])
    return {**recipe, "spell": None, "output": str(output.with_name(f"un{output.name}"))}


def arm_recipe(folder: Path, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Stage B of one arm."""
    is_lora = arm in {"lora", "gated-lora"}
    rate = LORA_RATE if is_lora else RATE
    return BASE | {
        "output": str(folder / f"{arm}-{seed}"),
        "seed": seed,
        "align": {"start_from": str(folder / f"aligned-{seed}")},
        "adapt": {
            "arm": describe_arm(folder, arm, seed),
            "steps": options.steps,
            "learning_rate": rate,
            "adaptor_factor": RATE / rate,
        },
        "evaluate_every": options.evaluate_every,
    }


def describe_arm(folder: Path, arm: str, seed: int) -> dict[str, Any]:
    """What trains in the language model, in the recipe's words."""
    if arm in PLANS:
        return {"plan": str(plan_path(folder, arm, seed))}
    if arm == "adaptor-only":
        return {"adaptor_only": True}
    return {"lora": {"rank": LORA_RANK, "audio_gated": arm == "gated-lora"}}


def train(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Train, or go on, unless it is done."""
    output = Path(recipe["output"])
    if (output / "run.json").exists():
        return
    path = folder / f"{output.name}.recipe.yaml"
    path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False), encoding="utf-8")
    print(f"{output.name} ...", flush=True)
    with (folder / f"{output.name}.log").open("a", encoding="utf-8") as log:
        oblong("speech", "train", str(path), log=log)
    print(f"{output.name} is done", flush=True)


def report(folder: Path, options: argparse.Namespace) -> None:
    """The page, the figure, and the numbers as JSON."""
    entries = [
        f"{arm}={folder / f'{arm}-{seed}'}"
        for arm in options.arms
        for seed in range(options.seeds)
        if (folder / f"{arm}-{seed}" / "run.json").exists()
    ]
    oblong(
        "speech",
        "report",
        *entries,
        "-o",
        str(folder / "figure1.html"),
        "--png",
        str(folder),
        "--over",
        "steps",
        "--force",
    )
    if options.json is not None:
        starts = [f"{path.name.rpartition('-')[0]}={path}" for path in sorted(folder.glob("*aligned-[0-9]"))]
        rows = [summarise(*entry.split("=", 1)) for entry in (*starts, *entries)]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def summarise(arm: str, folder: str) -> dict[str, Any]:
    """One training, without paths."""
    run = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    return {
        "arm": arm,
        "seed": run["seed"],
        "status": run["status"],
        "num_trainable": run["arm"]["num_trainable"],
        "num_adaptor": run["num_adaptor"],
        "points": [
            {
                "stage": point["stage"],
                "step": point["step"],
                "seconds": round(point["seconds"], 1),
                "loss": point["loss"],
                "token_accuracy": point["alignment"]["token_accuracy"],
                "shuffled_accuracy": point["alignment"]["shuffled_accuracy"],
                "spelling": count(point["spelling"]),
                "wer": count(point["wer"]),
                "perplexity_ratio": {name: text["ratio"] for name, text in point["retention"].items()},
            }
            for point in run["points"]
        ],
    }


def count(sets: Mapping[str, Any]) -> dict[str, Any]:
    """Word errors of each test set, with their interval."""
    return {name: words["words"] | {"interval": words["interval"]} for name, words in sets.items()}


def oblong(*arguments: str, log: Any = None) -> None:
    """Run the command line; one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "oblong", *arguments], check=True, env=environment, stdout=log, stderr=log)


if __name__ == "__main__":
    sys.exit(main())
