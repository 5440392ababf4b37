"""Native tests run where the kernels can be compiled; elsewhere they are skipped and say so."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _kernels(request):
    from tutelage.native import kernels

    if not kernels.is_ready():
        pytest.skip("the native kernels cannot be compiled here")
