"""The mathematics of one matrix, or of many: no names, files, logging or global state."""

from oblong.spectra.activation import bound_activation_entropy
from oblong.spectra.batch import compute_spectra
from oblong.spectra.compute import Precision, compute_spectrum
from oblong.spectra.measures import MatrixMeasures, compute_measures
from oblong.spectra.noise import bound_unrounded_kappa, compute_noise_floor
from oblong.spectra.null import NullModel, compute_marchenko_pastur_kappa, compute_null
from oblong.spectra.spectrum import Method, Outcome, Spectrum
from oblong.spectra.workspace import Workspace, Workspaces

__all__ = [
    "MatrixMeasures",
    "Method",
    "NullModel",
    "Outcome",
    "Precision",
    "Spectrum",
    "Workspace",
    "Workspaces",
    "bound_activation_entropy",
    "bound_unrounded_kappa",
    "compute_marchenko_pastur_kappa",
    "compute_measures",
    "compute_noise_floor",
    "compute_null",
    "compute_spectra",
    "compute_spectrum",
]
