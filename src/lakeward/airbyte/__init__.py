"""An Airbyte server: what must change in it to match the repository, and changing it.

client.py speaks its public API, wanted.py says what the repository wants of it, plan.py compares, apply.py
performs, jobs.py triggers a sync and follows it.
"""
