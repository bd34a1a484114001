"""Places orders."""

from __future__ import annotations

from functools import partial

from django.db import transaction

from .models import Order
from .tasks import send_receipt


def place_order(customer: str) -> Order:
    """Save an order; its receipt is sent when the transaction is committed, and not if it is rolled back."""
    with transaction.atomic():
        order = Order.objects.create(customer=customer)
        transaction.on_commit(partial(send_receipt.delay, order.pk))
    return order
