"""Tests that run inside the QEMU test machine; a package, so that its conftest has a name of its own."""
