"""Every error a lakeward user can meet.

LakewardError
├─ ConfigError            a file or a flag must be edited (exit 2)
├─ LandingError           the object store did not answer (transient)
├─ LakeError              DuckDB or the catalog refused
│  └─ CatalogUnavailable  the catalog did not answer (transient)
├─ TransformError         dbt failed; carries the models that did
│  ├─ NothingSelected     dbt had no model to run: progress must not move
│  ├─ DataError           rows of some landed file do not fit the model
│  └─ MemoryExceeded      the batch was too large for the memory limit
├─ ConnectorError         an Airbyte connector failed, in its own words
├─ AirbyteError           an Airbyte server refused, in its own words, or did not answer
└─ LedgerError            the ledger contradicts the tables
   └─ WriterConflict      another writer was faster: read again, start over (transient)
"""

from __future__ import annotations


class LakewardError(Exception):
    """A message that says what and where, and a hint that says what to do."""

    exit_code = 1
    transient = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process borders (a feeder runs in a worker): keep the hint."""
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[LakewardError], message: str, hint: str | None) -> LakewardError:
    return kind(message, hint=hint)


class ConfigError(LakewardError):
    exit_code = 2


class LandingError(LakewardError):
    transient = True


class LakeError(LakewardError):
    pass


class CatalogUnavailable(LakeError):
    transient = True


class TransformError(LakewardError):
    pass


class NothingSelected(TransformError):
    pass


class DataError(TransformError):
    pass


class MemoryExceeded(TransformError):
    pass


class ConnectorError(LakewardError):
    pass


class AirbyteError(LakewardError):
    pass


class LedgerError(LakewardError):
    pass


class WriterConflict(LedgerError):
    transient = True
