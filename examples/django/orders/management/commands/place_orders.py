"""``manage.py place_orders 20``: place orders, wait for their receipts, and print how many were sent at once."""

from __future__ import annotations

import time
from argparse import ArgumentParser

from django.core.management.base import BaseCommand, CommandError

from orders.models import Order
from orders.sales import place_order

#: How long to wait for the receipts, in seconds.
PATIENCE = 60


class Command(BaseCommand):
    """Places so many orders."""

    help = "Place orders, wait until their receipts are sent, and say how many were sent at once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("count", type=int)

    def handle(self, *, count: int, **options: object) -> None:
        keys = [place_order(f"customer{number}@example.com").pk for number in range(count)]
        orders = Order.objects.filter(pk__in=keys)
        self.stdout.write(f"placed {count} orders; waiting for workers to send their receipts")
        deadline = time.monotonic() + PATIENCE
        while orders.filter(sending_ended=None).exists():
            if time.monotonic() > deadline:
                raise CommandError(f"not all receipts were sent within {PATIENCE} s: are workers running?")
            time.sleep(0.2)
        self.stdout.write(f"sent {orders.count()} receipts, at most {most_at_once(orders)} at once")


def most_at_once(orders: object) -> int:
    """The most receipts that were being sent at one instant, by what the tasks wrote into the database."""
    began = [(moment, 1) for moment in orders.values_list("sending_began", flat=True)]
    ended = [(moment, -1) for moment in orders.values_list("sending_ended", flat=True)]
    running = most = 0
    for _, step in sorted(began + ended):
        running += step
        most = max(most, running)
    return most
