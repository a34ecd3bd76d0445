"""A base model linearised at θ0: its Jacobian times many vectors, for candidates that share the forward pass there."""
