"""Every tolerance of the tests, by component; loosening one needs a design note."""
