"""The terms of the report, each in a sentence or two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

GLOSSARY: Final[Mapping[str, str]] = {
    "kappa": "Condition number: the largest singular value of a matrix over its smallest non-zero one. 1 is perfectly "
    "round: all directions pass equally strongly. It does not change when the matrix is multiplied by a number.",
    "null kappa": "The median condition number of matrices of the same shape with independent Gaussian entries: what "
    "kappa would be if nothing had been learned.",
    "excess": "ln(kappa / null kappa). It takes out what the shape alone explains; 0 is as round as chance.",
    "log-volume": "Sum of the logarithms of the non-zero singular values: how much the matrix stretches volume.",
    "entropy gap": "How much more entropy, in nats, the output would have if the matrix were perfectly round at the "
    "same Frobenius norm. Never negative; zero only when kappa is 1.",
    "stable rank": "Squared Frobenius norm over the squared largest singular value: a rank that small singular values "
    "barely touch, and that survives coarse storage.",
    "unresolved": "The smallest singular value lies below the rounding error of the storage format, so kappa is only "
    "known to lie in an interval.",
    "eligible": "May be chosen by a Plan by default. Vectors, embeddings, output heads and routers are not.",
    "plan": "The exact list of tensors that train. All others stay bit for bit what they were.",
    "arm": "One plan and method in the comparison, trained once per seed.",
    "control": "The arm that the others are compared with; here usually a random choice of the same size.",
    "loss": "Negative log-likelihood per token on held-out text, in nats; exp of it is the perplexity.",
    "gain": "How far the loss on the new domain has fallen, nats per token.",
    "forgetting": "How far the loss on a text that was to be kept has risen, nats per token; negative if it fell.",
    "backward transfer": "What later tasks of a sequence did to the gain on earlier ones; below 0 they damaged them.",
    "forward transfer": "What earlier tasks of a sequence did for later ones before these were learned.",
    "front": "Of an arm's states, over all its learning rates and steps, those that no other one beats in gain and "
    "forgetting at once.",
    "hypervolume": "The area between an arm's front and a fixed corner: larger means more learned for less forgotten.",
    "data-free": "Uses no old data beside the text that is being learned, but what the base model itself generates.",
    "interval": "The range in which the true mean difference plausibly lies. Documents are paired and drawn again with "
    "replacement, many times, to see how much their choice matters; from three seeds on, the spread between seeds "
    "counts too. An interval that holds zero does not show that there is no difference.",
    "KL to base": "Mean forward Kullback-Leibler divergence from the base model's next-token distribution to the tuned "
    "model's, nats per token: how far the predictions moved, right or wrong.",
    "moved": "Share of the trained weights whose stored value differs from the base after training.",
}
