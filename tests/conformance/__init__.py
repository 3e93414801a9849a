"""PyTorch's own operation and module samples, run through xent."""
