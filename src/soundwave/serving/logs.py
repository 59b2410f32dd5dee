"""The log: a JSON object on each line, about requests and never about what was said in them."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

LOGGER = "soundwave.serving"
SILENT = ("uvicorn.access",)  # the guard writes these lines, with more in them


class JsonLines(logging.Formatter):
    """Records as lines of JSON: time, level, event, and the record's `facts`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def write_to(stream: TextIO | None = None, quiet: bool = False) -> None:
    """Sends the server's log to a stream; default: standard error. Where it is quiet, errors alone."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (LOGGER, "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.ERROR if quiet else logging.INFO if name == LOGGER else logging.WARNING)
    for name in SILENT:
        logging.getLogger(name).disabled = True


def tell(event: str, **facts: Any) -> None:
    """Writes a line."""
    logging.getLogger(LOGGER).info(event, extra={"facts": facts})
