"""Other servers of the Open Inference Protocol, and other clients of ours, from an environment of their own."""
