package dev.slmkit.sample.backends

import dev.slmkit.sample.core.Assistant
import dev.slmkit.sample.core.ChatForm
import dev.slmkit.sample.core.Export
import dev.slmkit.sample.core.Generator
import dev.slmkit.sample.core.ModelBackend
import dev.slmkit.sample.core.Refused
import dev.slmkit.sample.core.Tokenizer
import dev.slmkit.sample.core.demand
import java.io.File

private const val CHUNK = 128 // tokens of one call: its logits take tokens * vocabulary * 4 bytes

/** A folder of models as the app carries it: exports, and beside them chat.json, cases.json and tokens.json. */
class Models(private val root: File, private val cache: File, private val freeMemory: () -> Long) {
    private val threads = Runtime.getRuntime().availableProcessors().coerceIn(1, 4) // a phone's fast cores
    val exports = Export.below(root)
    val cases get() = File(root, "cases.json").readText()

    /** The first model that this app and this phone can run; else the reasons why there is none. */
    fun open(): Assistant {
        val reasons = exports.map { export ->
            try {
                return open(export)
            } catch (e: Refused) {
                e.message
            }
        }
        demand(reasons.isNotEmpty()) { "there is no ${Export.FILE} below $root: export a model into it" }
        throw Refused(reasons.joinToString("\n"))
    }

    private fun open(export: Export): Assistant {
        if (export.artifact == "litert") return checked(export) { openLiteRtLm(export, cache, threads) }
        val form = ChatForm.of(File(root, "chat.json").readText())
        return Generator(backend(export), export, Tokenizer(File(root, "tokens.json").readText()), form)
    }

    /** What gives logits, for the self-test. */
    fun backend(export: Export): ModelBackend = when (export.artifact) {
        "ort" -> checked(export) { OrtBackend(export, CHUNK, threads) }
        "litert" -> throw Refused("LiteRT-LM gives text and no logits: ask it something in the chat")
        else -> throw Refused("${export.model}/${export.artifact} ${needs(export)}; this app runs ort and litert")
    }

    private fun needs(export: Export) = when (export.artifact) {
        "hexagon" -> "needs an NPU of ${export.chips} and ${export.fact("packages")}"
        "mlc" -> "needs a GPU of ${export.chips} and MLC's Android library, built with this model's code"
        "coreml" -> "is for Core ML on Apple's devices"
        else -> "is not known here"
    }

    private fun <T> checked(export: Export, open: () -> T): T {
        export.checkMemory(freeMemory())
        export.checkFiles()
        return open()
    }
}
