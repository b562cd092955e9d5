"""Every tolerance of the tests, by component; loosening one needs a design note."""

# reporting: means and differences of a handful of float64 numbers
REPORT_ARITHMETIC = 1e-12

# scanning: float32 weights, measured through the Gram matrix against numpy's float64 SVD
SCAN_AGAINST_SVD = 1e-8

# evaluation: nats of a float32 model, batched, padded or cut otherwise than the reference; relative
SCORE_AGAINST_REFERENCE = 1e-5
# evaluation: hand-derived intervals; the bootstrap variance itself has a relative error of about 1 / sqrt(resamples)
INTERVAL_ARITHMETIC = 1e-12
INTERVAL_AGAINST_FORMULA = 0.03

# spectra: relative unless said otherwise
FLOAT64 = 1e-12  # quantities that lose no more than a few bits
FLOAT32 = 1e-5  # the same of float32
KAPPA_BELOW_1E6 = 1e-6  # the promise for every matrix with kappa < 1e6
KAPPA_REFINED = 1e-9  # what the Gram route achieves up to kappa 2e5
KAPPA_AGAINST_SVD = 1e-10  # Gaussian matrices: kappa at most some thousands
FULL_SPECTRUM = 1e-6  # every singular value
LOG_VOLUME = 1e-9  # relative or absolute, whichever is larger
NULL_QUANTILE = 0.04  # absolute; 2000 samples against the table's 20000
NULL_MEDIAN = 0.03
NOISE_FLOOR_FLOAT = 0.05  # the floor is a statistical estimate
NOISE_FLOOR_BLOCKS = 0.35
LOG_SLOPE = 1e-3  # absolute, nats per unit

# checkpoints: sums of squares of float32 numbers, in float64
ROUNDING_OF_A_PRODUCT = 1e-6
NF4_ROUNDING = 0.1  # weights are taken as uniform between the midpoints, and block maxima are exact
