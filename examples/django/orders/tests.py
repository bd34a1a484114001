"""How to test tasks under limits in Django: eagerly, with neither a worker nor a Redis."""

from __future__ import annotations

from django.test import TestCase
from shop.celery import app

from .models import Order
from .sales import place_order


class PlaceOrder(TestCase):
    """Tasks run at once, in this process; limits have no effect, and Redis is not asked."""

    def setUp(self) -> None:
        app.conf.task_always_eager = True
        self.addCleanup(setattr, app.conf, "task_always_eager", False)

    def test_the_receipt_is_sent_when_the_order_is_committed(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            order = place_order("ada@example.com")
            assert Order.objects.get(pk=order.pk).sending_began is None
        assert Order.objects.get(pk=order.pk).sending_ended is not None

    def test_only_the_staff_sees_the_limits(self) -> None:
        self.assertRedirects(self.client.get("/limits/"), "/admin/login/?next=/limits/")
