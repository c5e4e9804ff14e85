"""Every scheme of the driver table is in a run of the contracts."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module

import pytest

import tests.contracts
from asyncq.drivers.table import BACKENDS, BROKERS
from asyncq.testing.contracts import BackendContract, BrokerContract, DriverFixtures

# What keeps no outcomes cannot keep that contract, and where its own tests are.
KEEPS_NONE = {
    "amqp": "tests.contracts.test_rpc_backend",
    "amqps": "tests.contracts.test_rpc_backend",
    "null": "tests.contracts.test_null_backend",
}


def runs_of(contract: type[DriverFixtures]) -> Iterator[str]:
    for module in pkgutil.iter_modules(tests.contracts.__path__, "tests.contracts."):
        for name, suite in vars(import_module(module.name)).items():
            if name.startswith("Test") and isinstance(suite, type) and issubclass(suite, contract):
                yield suite.scheme


@pytest.mark.parametrize("scheme", BROKERS)
def test_the_contract_of_brokers_is_run_by_every_scheme(scheme: str) -> None:
    assert scheme in set(runs_of(BrokerContract)), "make a run of BrokerContract with this scheme"


@pytest.mark.parametrize("scheme", BACKENDS)
def test_the_contract_of_backends_is_run_by_every_scheme(scheme: str) -> None:
    if scheme in KEEPS_NONE:
        import_module(KEEPS_NONE[scheme])
    else:
        assert scheme in set(runs_of(BackendContract)), "make a run of BackendContract with it"
