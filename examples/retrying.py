"""What a task does about what goes wrong: python examples/retrying.py"""

import asyncio
import time

import asyncq

app = asyncq.App("sqlite:///asyncq.db")


BANK_OPENS = time.monotonic() + 0.5


class GatewayBusy(Exception):
    pass


class CardDeclined(Exception):
    pass


@app.task(
    # As often as fits in a minute; not what a look at the error says is in vain.
    retry=asyncq.Retry(
        base=0.05, ceiling=1.0, for_seconds=60, on=(GatewayBusy, OSError), not_on=PermissionError
    ),
    throws=CardDeclined,  # it happens: a line in the log, and no traceback
    soft_time_limit=5.0,  # raises SoftTimeLimitExceeded inside of the task
    time_limit=8.0,
    aliases=["retrying.pay"],  # what it was called before
)
async def charge(ctx: asyncq.Context, card: str) -> str:
    match card:
        case "busy" if ctx.attempt < 3:
            raise GatewayBusy
        case "declined":
            raise CardDeclined(card)
        case "stolen":
            raise asyncq.Reject("the card is stolen")  # never again; to the dead letters
        case "done before":
            raise asyncq.Ignore("it was charged yesterday")
        case "at night" if time.monotonic() < BANK_OPENS:
            raise asyncq.Snooze(0.1)  # counts as no attempt
        case "renewed":
            raise asyncq.RetryLater(0.1, args=["new number"])
        case _:
            return f"charged {card} in attempt {ctx.attempt}"


async def main() -> None:
    cards = ["plain", "busy", "declined", "stolen", "done before", "at night", "renewed"]
    async with app, app.worker():
        for result in await app.enqueue_many(charge.s(card) for card in cards):
            try:
                print(await result)
            except asyncq.TaskIgnored as ignored:
                print(f"ignored: {ignored.reason}")
            except asyncq.TaskFailed as error:
                print(f"failed: {error.type.rpartition('.')[2]}: {error.message}")


if __name__ == "__main__":
    asyncio.run(main())
