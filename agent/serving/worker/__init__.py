"""What runs in a worker process: the loaded model, its queue, and the answers to clients."""
