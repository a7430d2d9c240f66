package dev.slmkit.sample.backends

import dev.slmkit.sample.core.Assistant
import dev.slmkit.sample.core.Export
import dev.slmkit.sample.core.Refused
import java.io.File

@Suppress("UNUSED_PARAMETER")
fun openLiteRtLm(export: Export, cache: File, threads: Int): Assistant =
    throw Refused("${export.model}/litert needs LiteRT-LM: build the flavour litertlm of this app")
