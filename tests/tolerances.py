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
