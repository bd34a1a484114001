"""Orders."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order; while its receipt is being sent there is a beginning and no end."""

    customer = models.EmailField()
    sending_began = models.DateTimeField(null=True)
    sending_ended = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"order {self.pk} of {self.customer}"
