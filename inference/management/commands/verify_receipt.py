"""`python manage.py verify_receipt FILE [--signer 0x…] [--rpc URL --contract 0x…]`"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from inference import signing, verification
from inference.verification import ChainAway, InvalidReceipt, Publication, Verdict


class Command(BaseCommand):
    help = "Check a receipt, as GET /inference/<id>/receipt answered it. Fails with status 1 if it proves nothing."
    # What a stranger's file says needs neither the database nor anything else of this marketplace.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help='The receipt; "-" reads standard input.')
        parser.add_argument(
            "--signer",
            metavar="0x…",
            help="The address that must have signed it. Without it: this marketplace's own.",
        )
        chain = "Whether its batch is published there is checked too. GET /chain/networks/ has both."
        parser.add_argument("--rpc", metavar="URL", help=f"A node of the chain. {chain}")
        parser.add_argument("--contract", metavar="0x…", help="The address of Receipts on that chain.")

    def handle(self, *args: Any, **options: Any) -> None:
        signer = options["signer"] or signing.signer()
        if bool(options["rpc"]) is not bool(options["contract"]):
            raise CommandError(
                "--rpc and --contract go together: a node of the chain, and its contract Receipts."
            )
        published = None
        try:
            document = verification.read(_text(options["file"]))
            verdict = verification.verify(document, signer)
            if options["rpc"]:
                published = verification.on_chain(
                    document, rpc_url=options["rpc"], contract=options["contract"]
                )
        except ChainAway as error:
            raise CommandError(f"The receipt is valid. {error}") from None
        except InvalidReceipt as error:
            lines = "".join(f"\n  {problem}" for problem in error.problems)
            raise CommandError(f"This receipt proves nothing:{lines}") from None
        self.stdout.write(_told(verdict, published))


def _text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"Could not read {name}: {error}") from None


def _told(verdict: Verdict, published: Publication | None) -> str:
    receipt, tokens = verdict.receipt, verdict.receipt["tokens"]
    currency = receipt["currency"]
    sealed = (
        "not sealed in a batch yet"
        if verdict.batch is None
        else f"sealed in batch {verdict.batch}, signed too"
    )
    return "\n".join(
        (
            f"The receipt is valid: signed by {verdict.signer}, {sealed}.",
            f"  request   {receipt['inference']} to {receipt['model']} on node {receipt['node']}, {receipt['status']}",
            f"  tokens    {tokens['prompt']} + {tokens['completion']} ({tokens['source']})",
            f"  charged   {receipt['charged']} {currency}"
            + (", less than the cost: a cap applied" if receipt["capped"] else ""),
            f"  provider  {receipt['provider_share']} {currency} of this",
            f"  fee       {receipt['fee']} {currency}",
            f"  ledger    {receipt['ledger']['reference']}, {receipt['ledger']['at']}",
            *([f"  chain     {published.value}"] if published else []),
        )
    )
