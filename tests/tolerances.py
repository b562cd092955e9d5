"""Every tolerance of the tests, by component; loosening one needs a design note."""

# reporting: means and differences of a handful of float64 numbers
REPORT_ARITHMETIC = 1e-12

# scanning: float32 weights, measured through the Gram matrix against numpy's float64 SVD
SCAN_AGAINST_SVD = 1e-8
