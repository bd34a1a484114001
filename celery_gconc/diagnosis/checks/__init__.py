"""The checks of ``doctor``: each a plain function of one :class:`~celery_gconc.diagnosis.look.Look`."""
