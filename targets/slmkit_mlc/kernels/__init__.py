"""TensorIR kernels: dense layers, experts, scans, RoPE, and workarounds for kernels of TVM."""
