"""TensorIR kernels: dense, experts, scans, rope, and fixes of TVM's own."""
