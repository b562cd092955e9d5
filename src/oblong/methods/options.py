"""The options of every method, as a recipe gives them; read without torch.

`strength` is the one option that all share: 0 is plain fine-tuning bit for bit. What it multiplies is said per method.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from oblong.records.base import Part

SELF_GENERATED: Final = "self_generated"


class AnchorOptions(Part):
    """Old data, for the methods that want to know what should not be forgotten."""

    sources: tuple[str, ...] = Field(
        min_length=1,
        description=f"`{SELF_GENERATED}` (sampled from the base itself), bundled:NAME, file, folder or Hub dataset; "
        "several are several past tasks",
    )
    text_field: str = Field(default="text", description="field or column that holds the text")
    blocks: int = Field(default=64, gt=0, description="blocks kept, or generated, of each source")
    batch_size: int = Field(default=8, gt=0, description="blocks generated at a time")
    temperature: float = Field(default=1.0, gt=0, description="of self-generated text")
    seed: int = Field(default=0, ge=0, lt=2**32, description="which blocks are kept or generated")

    @field_validator("sources", mode="before")
    @classmethod
    def _accept_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class MethodOptions(Part):
    """What all methods have in common."""

    name: str
    strength: float = Field(default=1.0, ge=0, description="0 is plain fine-tuning")


class PlainOptions(MethodOptions):
    """Plain fine-tuning."""

    name: Literal["plain"] = "plain"
    strength: float = Field(default=0.0, ge=0, le=0, description="there is nothing to weigh")


class QuadraticOptions(MethodOptions):
    """A quadratic penalty that pulls weights back to the base's."""

    update: Literal["gradient", "proximal"] = Field(
        default="gradient",
        description="gradient: added to the gradient before clipping; proximal: an implicit step after the "
        "optimizer's, stable for any strength",
    )


class L2SpOptions(QuadraticOptions):
    """L2-SP; `strength` is alpha, the weight of half the squared distance from the base."""

    name: Literal["l2_sp"] = "l2_sp"


class EwcOptions(QuadraticOptions):
    """Elastic Weight Consolidation; `strength` is lambda."""

    name: Literal["ewc"] = "ewc"
    fisher: Literal["sampled", "empirical"] = Field(
        default="sampled",
        description="sampled: labels drawn from the model, the true Fisher information; empirical: the text's own",
    )
    blocks: int | None = Field(default=None, gt=0, description="anchor blocks to estimate from; default: all")
    draws: int = Field(default=1, gt=0, description="sets of labels drawn per block")
    decay: float = Field(default=1.0, ge=0, le=1, description="gamma of online EWC: weight of the tasks before")
    normalise: bool = Field(default=True, description="divide the Fisher information by its mean")


class MasOptions(QuadraticOptions):
    """Memory Aware Synapses; `strength` is lambda."""

    name: Literal["mas"] = "mas"
    output: Literal["log_probabilities", "logits", "hidden"] = Field(
        default="log_probabilities", description="the output whose squared norm is differentiated"
    )
    blocks: int | None = Field(default=None, gt=0, description="anchor blocks to estimate from; default: all")
    normalise: bool = Field(default=True, description="divide the importance by its mean")


class SiOptions(QuadraticOptions):
    """Synaptic Intelligence; `strength` is c."""

    name: Literal["si"] = "si"
    damping: float = Field(default=1e-3, gt=0, description="xi, added to the squared distance travelled")
    warmup_steps: int = Field(
        default=32, ge=0, description="steps on anchor text that give the base a path; their weights are dropped"
    )
    warmup_batch: int = Field(default=4, gt=0, description="anchor blocks per warm-up step")
    normalise: bool = Field(default=False, description="divide the importance by its mean")


class ReplayOptions(MethodOptions):
    """Experience replay; `strength` is the number of old blocks per new one."""

    name: Literal["replay"] = "replay"
    strength: float = Field(default=0.25, ge=0, description="old blocks per new block")


class KlToBaseOptions(MethodOptions):
    """KL divergence to the base on the new data; `strength` is its weight."""

    name: Literal["kl_to_base"] = "kl_to_base"
    direction: Literal["forward", "reverse"] = Field(
        default="forward", description="forward: KL(base || tuned), covers what the base would say; reverse: the other"
    )


class LwfOptions(MethodOptions):
    """Learning without Forgetting; `strength` is lambda."""

    name: Literal["lwf"] = "lwf"
    temperature: float = Field(default=2.0, gt=0, description="T, softens both distributions")
    times_squared_temperature: bool = Field(
        default=False, description="multiply by T^2, so that the gradient's size does not depend on T"
    )


class GemOptions(MethodOptions):
    """Gradient Episodic Memory; `strength` is the share of the projection that is carried out."""

    name: Literal["gem"] = "gem"
    strength: float = Field(default=1.0, ge=0, le=1, description="0: none of the projection, 1: all of it")
    margin: float = Field(default=0.5, ge=0, description="gamma: lower bound of the dual variables")
    ridge: float = Field(default=1e-3, ge=0, description="added to the dual's diagonal, as a share of its mean")
    blocks: int = Field(default=4, gt=0, description="old blocks per task and step")


class AGemOptions(MethodOptions):
    """Averaged GEM; `strength` is the share of the projection that is carried out."""

    name: Literal["a_gem"] = "a_gem"
    strength: float = Field(default=1.0, ge=0, le=1, description="0: none of the projection, 1: all of it")
    blocks: int = Field(default=4, gt=0, description="old blocks per step")


class PackNetOptions(MethodOptions):
    """PackNet; `strength` is the share of each matrix that the base keeps."""

    name: Literal["packnet"] = "packnet"
    strength: float = Field(
        default=0.75,
        ge=0,
        lt=1,
        description="share of each matrix, largest weights first, that stays the base's; 0: off",
    )
    zero_freed: bool = Field(
        default=True, description="set the freed weights to zero, as PackNet does; false leaves them where they were"
    )
    retrain_steps: int = Field(default=0, ge=0, description="steps on anchor text that mend the pruned base")
    retrain_learning_rate: float = Field(default=1e-4, gt=0)
    retrain_batch: int = Field(default=4, gt=0, description="anchor blocks per retraining step")


class ClasspOptions(MethodOptions):
    """CLASSP, an optimizer; `strength` switches it on (1) or off (0)."""

    name: Literal["classp"] = "classp"
    strength: Literal[0, 1] = Field(default=1, description="1: CLASSP, 0: the training's own optimizer")
    mode: Literal["paper", "reference"] = Field(
        default="paper", description="paper: the published rule; reference: what its author's code does"
    )
    threshold: float | str = Field(
        default="q0.9", description="of the squared gradient; q0.9: each tensor's own quantile (paper mode only)"
    )
    power: float = Field(default=1.0, gt=0, description="p")
    epsilon: float = Field(default=1e-5, gt=0, description="epsilon, inside the root")
    scaling: bool = Field(default=True, description="divide by the root of the sum; false: threshold only")
    anchor_blocks: int = Field(
        default=0,
        ge=0,
        description="anchor blocks whose gradients fill the sums before training; 0: sums start at zero",
    )

    @field_validator("threshold")
    @classmethod
    def _check_threshold(cls, value: float | str) -> float | str:
        if isinstance(value, str):
            digits = value.removeprefix("q")
            if not value.startswith("q") or not digits.replace(".", "", 1).isdigit() or not 0 <= float(digits) < 1:
                raise ValueError("give a number, or a quantile from q0 to q0.99...")
        elif value < 0:
            raise ValueError("a threshold is not negative")
        return value


class SvbOptions(MethodOptions):
    """Singular value bounding; `strength` is the share of the way that singular values move into their band."""

    name: Literal["svb"] = "svb"
    strength: float = Field(default=1.0, ge=0, le=1, description="0: not at all, 1: into the band")
    mode: Literal["relative", "paper"] = Field(
        default="relative", description="relative: a band about each singular value of the base; paper: about 1"
    )
    epsilon: float = Field(default=0.05, gt=0, description="the band is [s / (1 + epsilon), s (1 + epsilon)]")
    every: int = Field(default=50, gt=0, description="steps between projections")


class EigenvalueDecayOptions(MethodOptions):
    """Eigenvalue decay; `strength` is C, the weight of the sum of largest singular values."""

    name: Literal["eigenvalue_decay"] = "eigenvalue_decay"
    strength: float = Field(default=1e-2, ge=0, description="C")
    target: Literal["weights", "update"] = Field(
        default="update", description="of the weights, as published, or of their difference from the base"
    )
    iterations: int = Field(default=9, gt=0, description="power iterations per step, from the last step's vector")


class InformationBottleneckOptions(MethodOptions):
    """Variational information bottleneck before the output layer; `strength` is beta."""

    name: Literal["information_bottleneck"] = "information_bottleneck"
    strength: float = Field(default=1e-5, ge=0, description="beta, the weight of the rate in nats; 0: no bottleneck")
    dimension: int = Field(default=64, gt=0, description="of the bottleneck")
    anneal_steps: int = Field(default=0, ge=0, description="steps over which beta rises from zero")


class MaskTheTargetOptions(MethodOptions):
    """Mask-the-Target; `strength` is the weight of its divergence."""

    name: Literal["mask_the_target"] = "mask_the_target"


class EaftOptions(MethodOptions):
    """Entropy-adaptive fine-tuning; `strength` is alpha, the exponent of the normalised entropy."""

    name: Literal["eaft"] = "eaft"
    top: int = Field(default=20, gt=1, description="tokens that the entropy is taken over")
    scale: float = Field(default=3.0, gt=0, description="nats that count as a weight of 1; ln 20 is about 3")


class FlowOptions(MethodOptions):
    """FLOW; `strength` multiplies the exponent of its sample weights."""

    name: Literal["flow"] = "flow"
    temperature: float | None = Field(default=None, gt=0, description="tau, nats; default: the median base loss")
    items: int = Field(default=256, gt=0, description="training items that the median is taken over")


class StmOptions(MethodOptions):
    """Selective token masking; `strength` is the share of the surprising tokens that is dropped."""

    name: Literal["stm"] = "stm"
    strength: float = Field(
        default=1.0, ge=0, le=1, description="share of the tokens above the threshold that is dropped"
    )
    perplexity: float = Field(default=2.5, gt=1, description="a token above this perplexity under the base is dropped")


class MofoOptions(MethodOptions):
    """MoFO; `strength` is the share of each tensor that does not move in a step."""

    name: Literal["mofo"] = "mofo"
    strength: float = Field(default=0.9, ge=0, lt=1, description="1 - alpha: share held back, smallest momentum first")


class HalfFineTuningOptions(MethodOptions):
    """Half fine-tuning; `strength` is the share of the tensors that is frozen."""

    name: Literal["half_fine_tuning"] = "half_fine_tuning"
    strength: float = Field(default=0.5, ge=0, lt=1, description="share of the tensors of each kind that is frozen")
    stage_steps: int = Field(default=0, ge=0, description="steps after which another half is drawn; 0: never")


class FreezeBottomOptions(MethodOptions):
    """Frozen bottom layers; `strength` is their share."""

    name: Literal["freeze_bottom"] = "freeze_bottom"
    strength: float = Field(
        default=0.5, ge=0, lt=1, description="share of the layers, from the input on, that is frozen"
    )


class WiseFtOptions(MethodOptions):
    """WiSE-FT; `strength` is 1 - alpha, the share of the way back to the base."""

    name: Literal["wise_ft"] = "wise_ft"
    strength: float = Field(default=0.5, ge=0, le=1, description="1 - alpha: 0 keeps the tuned weights, 1 the base's")


class SubspaceOptions(MethodOptions):
    """Updates orthogonal to the leading singular subspaces; `strength` is the share of each rank that is kept."""

    name: Literal["subspace_projection"] = "subspace_projection"
    strength: float = Field(default=0.5, ge=0, lt=1, description="share of the singular directions that is protected")


class DampingOptions(MethodOptions):
    """Updates damped by what old data says of each layer; strength 1 halves them where it is the median."""

    strength: float = Field(default=10.0, ge=0, description="of the damping; infinity leaves the null space alone")
    blocks: int | None = Field(default=None, gt=0, description="at most so many blocks of old data are read")


class NullSpaceOptions(DampingOptions):
    """Updates damped along the inputs that old data uses."""

    name: Literal["null_space"] = "null_space"


class KfacDampingOptions(DampingOptions):
    """Updates damped by the Kronecker-factored Fisher information."""

    name: Literal["kfac_damping"] = "kfac_damping"


class EvolutionaryPruningOptions(MethodOptions):
    """Evolutionary pruning; `strength` is the share of every feed-forward block that the base keeps."""

    name: Literal["evolutionary_pruning"] = "evolutionary_pruning"
    strength: float = Field(
        default=0.75,
        ge=0,
        lt=1,
        description="share of the groups of every feed-forward block that stays the base's, where silencing them would "
        "hurt old text most; at least one group is freed and one kept; 0: off",
    )
    groups: int = Field(default=32, gt=1, description="groups that the units of a block are divided into")
    population: int = Field(default=16, gt=1, description="choices of groups per generation of the search")
    generations: int = Field(default=10, ge=0, description="of the search, after the first population")
    pressure: float = Field(
        default=3.0, gt=0, le=100, description="how much more often the better choices become parents"
    )
    zero_freed: bool = Field(
        default=False, description="start from the pruned base; false leaves the freed units as they were"
    )
    blocks: int | None = Field(default=None, gt=0, description="at most so many blocks of old data are read")

    @property
    def deleted(self) -> int:
        """Groups of every block that a task is given."""
        return min(self.groups - 1, max(1, round((1.0 - self.strength) * self.groups)))

    def describe_search(self, seed: int) -> EvolutionOptions:
        """The sizes of the search."""
        return EvolutionOptions(
            groups=self.groups,
            deleted=self.deleted,
            population=self.population,
            generations=self.generations,
            pressure=self.pressure,
            seed=seed % 2**32,
        )


class EvolutionOptions(Part):
    """Sizes of the search for prunable feed-forward units."""

    groups: int = Field(default=32, gt=1, description="groups that the units of a block are divided into")
    deleted: int = Field(default=8, gt=0, description="groups deleted of each block")
    population: int = Field(default=16, gt=1, description="chromosomes per generation")
    generations: int = Field(default=10, ge=0)
    pressure: float = Field(
        default=3.0, gt=0, le=100, description="a: how much more often the better ones become parents"
    )
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _leave_something(self) -> Self:
        if self.deleted >= self.groups:
            raise ValueError(f"deleted ({self.deleted}) must be less than groups ({self.groups})")
        return self
