"""Chaos: real workers under random limits, loads and faults, judged by an oracle that knows nothing of celery-gconc.

seed -> schedule -> run (world, faults, load) -> the oracle's log -> checker -> report
"""
