"""The demo: three real workers, one limit, changed and hit by a crash while an independent witness counts.

    python -m examples.demo

    run -> server, workers                    a Redis, three workers, the commands an operator would type
    app (in the workers) -> witness           each task tells Redis when it starts and ends
    witness -> timeline -> screen, picture    what happened, checked, and shown

Each arrow points to what is used or told; only ``app`` and ``run`` know celery-gconc.
"""
