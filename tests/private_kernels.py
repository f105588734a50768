"""A plugin for pytest: kernels that nbval starts are reached by socket files of their own, not by TCP ports.

Two workers that look for free ports at once may find the same ones, and one kernel dies (jupyter_client's issue 487).
"""

from tempfile import TemporaryDirectory

import nbval.kernel
from jupyter_client.manager import KernelManager


class PrivateKernels(KernelManager):
    """A kernel manager whose sockets lie in a folder that goes with it."""

    def __init__(self, **more):
        folder = TemporaryDirectory(prefix="pneumo_nb-")
        super().__init__(transport="ipc", ip=f"{folder.name}/k", connection_file=f"{folder.name}/k.json", **more)
        self.folder = folder


nbval.kernel.KernelManager = PrivateKernels
