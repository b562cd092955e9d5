"""The speech sets that oblong builds: human speech that Debian packages carry, and synthesised German and English."""
