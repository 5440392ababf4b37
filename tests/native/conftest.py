"""Native tests run where the kernels can be compiled; elsewhere they are skipped and say so."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _kernels(request):
    from tutelage.native import kernels

    if not kernels.is_ready():
        pytest.skip("the native kernels cannot be compiled here")


@pytest.fixture
def on_threads():
    """on_threads(n, call): what the call gives with so many threads."""
    import torch

    before = torch.get_num_threads()

    def run(n, call):
        torch.set_num_threads(n)
        try:
            return call()
        finally:
            torch.set_num_threads(before)

    return run
