"""Records -> tables, charts and one HTML page. It sees only records, and it computes no result of its own."""
