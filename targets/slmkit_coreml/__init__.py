"""Core ML artifacts: ``coreml`` for the Apple Neural Engine."""

import logging

# Off a Mac, coremltools says at import, part by part, that it cannot run models here.
logging.getLogger("coremltools").setLevel(logging.ERROR)
