"""What the serving bench uses: a load generator in C, models of known cost, and other servers to compare with."""
