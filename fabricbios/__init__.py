"""fabricBIOS for Linux: a machine's hardware, leased over the network and bound to the kernel."""

__version__ = "0.1.0"
