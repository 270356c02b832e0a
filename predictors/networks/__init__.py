"""From a file or a space to the kernels that a target runs."""
