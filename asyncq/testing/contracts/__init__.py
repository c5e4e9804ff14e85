"""What the seams promise, as tests: a driver is right when these suites pass.

A driver's test module subclasses each suite that applies and says where its store is:

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        def url(self) -> Url:
            return Url("mystore://127.0.0.1")

A driver that is not in the table of `asyncq.drivers.table` overrides the fixtures of
`DriverFixtures` instead. The tests are coroutines: run them with pytest-asyncio in auto mode, and
call ``pytest.register_assert_rewrite("asyncq.testing.contracts")`` before the import to see values.
"""

from asyncq.testing.contracts.admin import AdminContract
from asyncq.testing.contracts.backends import BackendContract
from asyncq.testing.contracts.brokers import BrokerContract
from asyncq.testing.contracts.consumers import ConsumerContract
from asyncq.testing.contracts.dead import DeadLetterContract
from asyncq.testing.contracts.doomed import DoomedContract
from asyncq.testing.contracts.envelopes import EnvelopeContract
from asyncq.testing.contracts.feeds import FeedContract
from asyncq.testing.contracts.given import DriverFixtures, FullBroker
from asyncq.testing.contracts.leases import LeaseContract
from asyncq.testing.contracts.ledger import LedgerContract
from asyncq.testing.contracts.model import ModelContract
from asyncq.testing.contracts.quarantine import QuarantineContract
from asyncq.testing.contracts.queues import QueueContract
from asyncq.testing.contracts.registry import RegistryContract
from asyncq.testing.contracts.together import TogetherContract
from asyncq.testing.contracts.topics import TopicsContract
from asyncq.testing.contracts.unified import UnifiedContract

__all__ = [
    "AdminContract",
    "BackendContract",
    "BrokerContract",
    "ConsumerContract",
    "DeadLetterContract",
    "DoomedContract",
    "DriverFixtures",
    "EnvelopeContract",
    "FeedContract",
    "FullBroker",
    "LeaseContract",
    "LedgerContract",
    "ModelContract",
    "QuarantineContract",
    "QueueContract",
    "RegistryContract",
    "TogetherContract",
    "TopicsContract",
    "UnifiedContract",
]
