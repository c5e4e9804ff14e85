"""From code without an event loop: a script, Django, Flask, a thread.

Start a worker first, with asyncq worker examples.shop:app, then python -m examples.sync_script.
"""

import asyncq
from examples.shop import app, charge, receipt


def main() -> None:
    with app.sync() as client:
        print(client.enqueue(receipt.s("order-1")).get(timeout=10))

        payments = client.enqueue_many(charge.s(f"order-{n}", n * 300.0) for n in range(1, 5))
        for payment in payments:
            try:
                print(payment.get(timeout=60))
            except asyncq.TaskFailed as failure:
                print(f"{payment.id} failed: {failure.message}")


if __name__ == "__main__":
    main()
