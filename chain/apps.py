import sys

from django.apps import AppConfig

# What Python begins with. py_ecc, which web3 brings along, raises it to 100,000: deeper than this machine's stack, so
# that a few thousand brackets of somebody's JSON would end the process instead of being an error.
_RECURSION_LIMIT = 1000


class ChainConfig(AppConfig):
    name = "chain"
    verbose_name = "on chain"

    def ready(self) -> None:
        from chain import (  # noqa: F401, PLC0415 - need the models
            bells,
            fulfilment_books,
            incomes,
            indexer,
            order_books,
            outbox,
            outcomes,
            registrations,
            roots,
            sources,
            withdrawals,
        )
        from chain.fulfilment import sending  # noqa: PLC0415 - likewise
        from chain.models import Purpose  # noqa: PLC0415 - likewise
        from inference import earnings  # noqa: PLC0415 - likewise

        earnings.count_also(incomes.of)
        indexer.on_progress(bells.on_progress)
        outbox.on_end(Purpose.ATTEMPT, sending.attempt_ended)
        outbox.on_end(Purpose.RESPONSE, sending.response_ended)
        outbox.on_end(Purpose.REGISTER, registrations.ended)
        outbox.on_end(Purpose.TERMINAL, registrations.ended)
        sys.setrecursionlimit(_RECURSION_LIMIT)
