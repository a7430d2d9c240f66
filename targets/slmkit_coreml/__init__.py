"""The ``coreml`` backend: Core ML packages for the Apple Neural Engine or the GPU."""

import logging

# On other systems than macOS, importing coremltools logs that models cannot run here.
logging.getLogger("coremltools").setLevel(logging.ERROR)
