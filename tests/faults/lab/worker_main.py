"""A worker process of the laboratory, without a supervisor: `app.run_worker`."""

import logging

from asyncq.worker.signals import run_loop
from tests.faults.lab.place import app


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    run_loop(app.run_worker)


if __name__ == "__main__":
    main()
