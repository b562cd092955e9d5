"""oblong: which weights of a pre-trained model can be fine-tuned without breaking what it knows.

    import oblong

    scan = oblong.scan("demo")                                         # checkpoint or live module -> Scan
    plan = oblong.plan(scan, criterion="kappa", within="role", budget="10M")   # Scan -> Plan
    plan.write(Path("plan.yaml"))
    run = oblong.tune(recipe)                                          # model + Plan + text -> Run
    evaluation = oblong.evaluate("demo", corpora, delta=...)           # model + held-out text -> Evaluation
    comparison = oblong.compare(recipe)                                # arms x seeds -> Comparison
    oblong.write_report(Path("report.html"), scan=scan, comparison=comparison)

The stages meet only in records (`oblong.records`), so each can be run again from its files. Nothing heavy is imported
before a stage is used: `import oblong` needs neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from oblong.records import Comparison, Evaluation, Plan, Run, Scan

if TYPE_CHECKING:
    from oblong.comparing import CompareRecipe, compare
    from oblong.corpora import read_documents
    from oblong.evaluation import evaluate
    from oblong.planning import plan
    from oblong.reporting import write_report
    from oblong.scanning import scan
    from oblong.tuning import TuneRecipe, tune

__all__ = [
    "CompareRecipe",
    "Comparison",
    "Evaluation",
    "Plan",
    "Run",
    "Scan",
    "TuneRecipe",
    "compare",
    "evaluate",
    "plan",
    "read_documents",
    "scan",
    "tune",
    "write_report",
]

_HOME: Final = {
    "CompareRecipe": "oblong.comparing",
    "TuneRecipe": "oblong.tuning",
    "compare": "oblong.comparing",
    "evaluate": "oblong.evaluation",
    "plan": "oblong.planning",
    "read_documents": "oblong.corpora",
    "scan": "oblong.scanning",
    "tune": "oblong.tuning",
    "write_report": "oblong.reporting",
}


def __getattr__(name: str) -> Any:
    """Import a stage when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'oblong' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
