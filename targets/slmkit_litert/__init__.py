"""The ``litert`` artifact: .tflite and .litertlm for LiteRT and LiteRT-LM, on Android's CPUs."""
