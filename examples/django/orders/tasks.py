"""Tasks. The setting limits ``send_receipt`` by its queue; it says nothing of limits itself."""

from __future__ import annotations

import time

from celery import shared_task
from django.utils import timezone

from .models import Order


@shared_task
def send_receipt(order_id: int) -> None:
    """Send a receipt by a mail provider that bears two connections."""
    Order.objects.filter(pk=order_id).update(sending_began=timezone.now())
    time.sleep(0.3)
    Order.objects.filter(pk=order_id).update(sending_ended=timezone.now())
