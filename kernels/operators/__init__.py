"""Networks as lists of TFLite's operators, and what a device that cannot be asked makes of them."""
