"""The ``mlc`` artifact: TVM model libraries for phone GPUs, as MLC's runtimes load them."""
